"""A study: measurements that take turns for several rounds, and what they are left in: JSON, a table, a chart."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import shlex
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from harness.benchmarks import BENCHMARK
from harness.errors import UserError
from harness.files import read_object, write_json
from harness.machine import cpu_name, usable_cores, versions
from harness.views.style import COLOURS, MARK, margins, save

# One measurement, as its process prints it, and the figure by which contestants are compared.
Row = dict[str, Any]
SPEED = "images_per_second"


class MeasurementError(UserError):
    """A measuring process that failed; the message is the end of what it said."""


def measured(command: str, arguments: Sequence[str]) -> Row:
    """What `benchmark.py command arguments`, a process of its own, prints as JSON on its last line."""
    said = output([sys.executable, str(BENCHMARK), command, *arguments])
    row: Row = json.loads(said.splitlines()[-1])
    return row


def output(line: Sequence[str]) -> str:
    """What this command line prints.

    Raises:
        MeasurementError: when it fails.
    """
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasurementError(f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Spread:
    """Median and extremes over rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        median, low, high = (f"{x:.2f}" if x >= 0.1 else f"{x:.2g}" for x in (self.median, self.min, self.max))
        return f"{median} ({low} to {high})"


def ratios(above: Iterable[float | None], below: Iterable[float | None]) -> Spread | None:
    """The quotients round by round, over the rounds that both finished (None: not); nothing where there is none."""
    pairs = zip(above, below, strict=False)
    found = [a / b for a, b in pairs if a is not None and b is not None]
    return Spread.of(found) if found else None


class Study(ABC):
    """Measurements by name, with options from `parser`. Each of the groups of names takes turns within itself.

    `rounds[name]` has an entry a round, None where the measurement failed; `failed[name]` tells why, and who failed
    once is left out from then on. `known` is what JSON holds from the beginning. With `--resume` the finished rounds of
    an earlier process that measured the same on the same machine are taken over.
    """

    def __init__(self, options: Namespace, groups: Sequence[Sequence[str]], known: Mapping[str, Any]) -> None:
        self.options, self.groups, self.known = options, groups, known
        self.rounds: dict[str, list[Row | None]] = {name: [] for group in groups for name in group}
        self.failed: dict[str, str] = {}
        self._given = {**machine(), "command": shlex.join(["python", *sys.argv]), "overrides": [*options.overrides]}
        # Through JSON, where tuples are lists.
        self._given = json.loads(json.dumps({**self._given, **known}))
        if options.resume and _same(earlier := read_object(options.output), self._given):
            for name in self.rounds:
                self.rounds[name] += [row for row in earlier["rounds"].get(name, []) if row]

    @abstractmethod
    def measure(self, name: str) -> Row:
        """Measure one; a MeasurementError leaves it out."""

    def said(self, row: Row) -> str:
        """What is printed of one measurement."""
        return f"{row[SPEED]:,.0f} images/s"

    @abstractmethod
    def table(self) -> Table:
        """What is printed in the end."""

    def record(self) -> dict[str, Any]:
        """What JSON holds of the rounds so far."""
        return {"rounds": self.rounds}

    def chart(self) -> Figure | None:
        """The rounds so far as a picture; None where there is nothing to draw."""
        return None

    def wrong(self) -> list[str]:
        """A sentence for each figure that means nothing."""
        return []

    def run(self, remarks: Iterable[str] = (), seconds: float | None = None) -> None:
        """Measure in all rounds, of which none begins after so many seconds. JSON, which holds the table, and the
        chart are written after each turn; in the end the table is printed with the remarks below it.

        Raises:
            UserError: when a file cannot be written, and, after all that, when a figure is missing or means nothing.
        """
        # Tables do not fit into the 80 columns that a file or a pipe is given.
        console = Console() if Console().is_terminal else Console(width=120)
        began = time.monotonic()
        for number in range(self.options.rounds):
            if number and seconds is not None and time.monotonic() - began > seconds:
                break
            for name in (name for group in self.groups for name in turns(group, number)):
                if len(self.rounds[name]) <= number:
                    said = self._turn(name)
                    console.print(f"round {number + 1} of {self.options.rounds}, {name}: {said}", highlight=False)
                    self.leave()
        files = self.leave(finished=True)
        console.print(self.table())
        for line in (*remarks, f"written: {', '.join(map(str, files))}"):
            console.print(line, markup=False, highlight=False)
        if wrong := self.all_wrong():
            raise UserError("not as it must be:\n" + "\n".join(wrong))

    def leave(self, finished: bool = False) -> list[Path]:
        """Write what there is so far, and tell the files."""
        said, chart, files = io.StringIO(), self.chart(), [self.options.output]
        Console(file=said, width=120).print(self.table())
        lines = [line.rstrip() for line in said.getvalue().splitlines()]
        first = self.first() or {}
        where = {name: first.get(name) for name in ("device", "precision", "threads")}
        so_far = {**where, **self.record(), "failed": self.failed, "finished": finished, "table": lines}
        write_json(self.options.output, {**self._given, **so_far})
        if chart:
            files.append(self.options.output.with_suffix(".png"))
            save(files[1], chart)
        return files

    def _turn(self, name: str) -> str:
        row = None
        if name not in self.failed:
            try:
                row = self.measure(name)
            except MeasurementError as error:
                self.failed[name] = str(error)
        self.rounds[name].append(row)
        return self.said(row) if row else f"failed: {self.failed[name]}"

    def all_wrong(self) -> list[str]:
        """A sentence for each measurement that failed, and for each figure that means nothing."""
        return [f"{name} failed: {why.splitlines()[-1]}" for name, why in self.failed.items()] + self.wrong()

    def results(self) -> dict[str, list[Row]]:
        """The finished rounds of those that finished any."""
        found = {name: [row for row in rounds if row] for name, rounds in self.rounds.items()}
        return {name: rounds for name, rounds in found.items() if rounds}

    def first(self) -> Row | None:
        """Any finished measurement, which tells where it ran."""
        return next((rounds[0] for rounds in self.results().values()), None)

    def values(self, name: str, quantity: str) -> list[float | None]:
        """One figure by round."""
        return [row[quantity] if row else None for row in self.rounds.get(name, [])]

    def spread(self, name: str, quantity: str) -> Spread | None:
        """A figure's spread over the rounds in which it was measured."""
        values = [value for value in self.values(name, quantity) if value is not None]
        return Spread.of(values) if values else None

    def median(self, name: str, quantity: str, form: str = ",.0f", scale: float = 1) -> str:
        """A figure's scaled median as text; empty where it was never measured."""
        spread = self.spread(name, quantity)
        return format(scale * spread.median, form) if spread else ""

    def ratio(self, above: str, below: str, quantity: str) -> Spread | None:
        """One's figure over another's, round by round."""
        return ratios(self.values(above, quantity), self.values(below, quantity))


def _same(earlier: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether an earlier record is of the same measurements: all but when and how they were asked for."""
    asked = given.keys() - {"date", "command"}
    return all(name in earlier and earlier[name] == given[name] for name in asked) and "rounds" in earlier


def turns(names: Sequence[str], number: int) -> list[str]:
    """The order of one round: each begins one place further on, so that no one always comes first."""
    shift = number % len(names)
    return [*names[shift:], *names[:shift]]


def table(title: str, left: Sequence[str], right: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table with these columns, some aligned to the left, the others to the right."""
    made = Table(*left, title=title)
    for heading in right:
        made.add_column(heading, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


def bars(title: str, label: str, spreads: Mapping[str, Spread], highlighted: str = "") -> Figure | None:
    """A bar for each name with its spread over rounds as a whisker, and a line at 1; nothing without any."""
    if not spreads:
        return None
    figure = Figure(figsize=(8, 1.1 + 0.42 * len(spreads)))
    margins(figure, left=2.9, bottom=0.6, right=0.6)
    axes = figure.subplots()
    widest = max(spread.max for spread in spreads.values())
    for position, (name, spread) in enumerate(list(spreads.items())[::-1]):
        whisker = [[spread.median - spread.min], [spread.max - spread.median]]
        colour = COLOURS[0] if name == highlighted else COLOURS[4]
        axes.barh(name, spread.median, xerr=whisker, color=colour, error_kw={"capsize": 3, "linewidth": 1})
        axes.text(spread.max + 0.01 * widest, position, f"{spread.median:.2f}", va="center", fontsize=9)
    axes.axvline(1, color=MARK, linestyle=":", linewidth=1)
    axes.set_xlim(0, 1.1 * widest)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    return figure


def parser(command: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A command's parser with what all of them take. Parse intermixed: overrides stand anywhere among the options."""
    made = argparse.ArgumentParser(
        prog=f"benchmark.py {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "overrides", nargs="*", type=_override, help="as for train.py, such as model=resnet20 batch_size=256"
    )
    made.add_argument("--rounds", type=count, default=rounds, help=f"turns of everything (default: {rounds})")
    made.add_argument("--output", type=Path, default=Path(f"benchmark_{command}.json"), help="the results as JSON")
    made.add_argument("--resume", action="store_true", help="go on with what --output holds of the same measurements")
    return made


def _override(text: str) -> str:
    if text.lstrip("+") == "batch_size=auto":
        raise argparse.ArgumentTypeError(f"{text}: must be a number, since all that is compared takes the same batches")
    return text


def count(text: str) -> int:
    """An option's whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return int(text)


def chosen(only: str, names: Sequence[str]) -> list[str]:
    """Those of the names that begin as one of the texts in `only`, with commas between.

    Raises:
        UserError: when there is none.
    """
    parts = tuple(part.strip().lower() for part in only.split(","))
    if not (found := [name for name in names if name.lower().startswith(parts)]):
        raise UserError(f"--only {only}: must be how names begin, of {'; '.join(names)}")
    return found


def machine() -> dict[str, Any]:
    """Date, processor, cores and versions of all that is compared, None for what is not installed."""
    packages = ("lightning", "timm", "hydra-core", "numpy")
    found = {name: next((one.version for one in distributions(name=name)), None) for name in packages}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "versions": {**versions(), **found},
    }
