"""A study: measurements that take turns for several rounds, and what they are left in: JSON, a table, a chart."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table

from harness.benchmarks.processes import MeasurementError
from harness.benchmarks.ratios import Spread, ratios
from harness.errors import UserError
from harness.files import write_json
from harness.machine import cpu_name, usable_cores, versions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass
class Study(Generic[T]):
    """What is measured by name, with options from `parser`. Each of the groups of names takes turns within itself.

    `measure` one by name; `record`, for JSON, `table`, `draw`, which tells whether there was anything to draw, and
    `wrong`, a sentence for each figure that means nothing, are made of the rounds so far. `rounds[name]` has an entry a
    round, None where the measurement failed; `failed[name]` tells why, and who failed once is left out from then on.
    """

    options: Namespace
    groups: Sequence[Sequence[str]]
    measure: Callable[[str], T]
    record: Callable[[Study[T]], dict[str, Any]]
    table: Callable[[Study[T]], Table]
    draw: Callable[[Study[T], Path], bool] = lambda *_: False
    wrong: Callable[[Study[T]], list[str]] = lambda _: []
    rounds: dict[str, list[T | None]] = field(init=False)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rounds = {name: [] for group in self.groups for name in group}

    def run(self, remarks: Iterable[str] = (), seconds: float | None = None) -> None:
        """Measure in all rounds, of which none begins after so many seconds. JSON is written after each turn, the chart
        after each round; in the end the table is printed with the remarks below it.

        Raises:
            UserError: when a file cannot be written, and, after all that, when a figure is missing or means nothing.
        """
        # Tables do not fit into the 80 columns that a file or a pipe is given.
        console = Console() if Console().is_terminal else Console(width=120)
        began, files = time.monotonic(), [self.options.output]
        for number in range(self.options.rounds):
            if number and seconds is not None and time.monotonic() - began > seconds:
                break
            for name in (name for group in self.groups for name in turns(group, number)):
                said = self._turn(name)
                console.print(f"round {number + 1} of {self.options.rounds}, {name}: {said}", highlight=False)
                self._save()
            chart = self.options.output.with_suffix(".png")
            files[1:] = [chart] if self.draw(self, chart) else []
        console.print(self.table(self))
        for line in (*remarks, f"written: {', '.join(map(str, files))}"):
            console.print(line, markup=False, highlight=False)
        if wrong := self.all_wrong():
            raise UserError("figures that are missing or mean nothing:\n" + "\n".join(wrong))

    def _turn(self, name: str) -> str:
        result = None
        if name not in self.failed:
            try:
                result = self.measure(name)
            except MeasurementError as error:
                self.failed[name] = str(error)
        self.rounds[name].append(result)
        return str(result or f"failed: {self.failed[name]}")

    def _save(self) -> None:
        given = {"overrides": list(self.options.overrides)}
        write_json(self.options.output, {**machine(), **given, **self.record(self), "failed": self.failed})

    def all_wrong(self) -> list[str]:
        """A sentence for each measurement that failed, and for each figure that means nothing."""
        return [f"{name} failed: {why.splitlines()[-1]}" for name, why in self.failed.items()] + self.wrong(self)

    def as_json(self) -> dict[str, list[dict[str, Any] | None]]:
        """The rounds, their results as dictionaries."""
        return {name: [None if r is None else asdict(r) for r in results] for name, results in self.rounds.items()}

    def results(self) -> dict[str, list[T]]:
        """The finished rounds of those that finished any."""
        found = {name: [result for result in results if result] for name, results in self.rounds.items()}
        return {name: results for name, results in found.items() if results}

    def first(self) -> T | None:
        """Any finished measurement, which tells where it ran."""
        return next((results[0] for results in self.results().values()), None)

    def values(self, name: str, quantity: str) -> list[float | None]:
        """One field of the results by round."""
        return [getattr(result, quantity) if result else None for result in self.rounds.get(name, [])]

    def spread(self, name: str, quantity: str) -> Spread | None:
        """A field's spread over the rounds in which it was measured."""
        values = [value for value in self.values(name, quantity) if value is not None]
        return Spread.of(values) if values else None

    def median(self, name: str, quantity: str, form: str = ",.0f", scale: float = 1) -> str:
        """A field's scaled median as text; empty where it was never measured."""
        spread = self.spread(name, quantity)
        return format(scale * spread.median, form) if spread else ""

    def ratio(self, above: str, below: str, quantity: str) -> Spread | None:
        """One's field over another's, round by round."""
        return ratios(self.values(above, quantity), self.values(below, quantity))


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


def parser(command: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A command's parser with what all of them take. Parse intermixed: overrides stand anywhere among the options."""
    made = argparse.ArgumentParser(
        prog=f"benchmark.py {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("overrides", nargs="*", help="as for train.py, such as model=resnet20 batch_size=256")
    made.add_argument("--rounds", type=positive, default=rounds, help=f"turns of everything (default: {rounds})")
    made.add_argument("--output", type=Path, default=Path(f"benchmark_{command}.json"), help="the results as JSON")
    return made


def positive(text: str) -> int:
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
    """Date, processor, cores and versions of all that is compared."""
    packages = ("lightning", "timm", "hydra-core", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "versions": {**versions(), **{name: _version(name) for name in packages}},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
