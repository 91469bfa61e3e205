"""Training beside its peers: the same network, images, batches and precision through each contestant.

Each contestant is a process of its own; they take turns, for several rounds, each round beginning with another one.
Timed are whole training epochs after a warm-up of ten steps: start-up, reading the data into memory and evaluation are
left out; what a loader does at the start of an epoch is in. The loader's workers stay between epochs, as its
documentation advises, so that starting them is in the warm-up.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks import floor
from harness.benchmarks.charts import plot_bars
from harness.benchmarks.contestants import BARE, HARNESS, contestants
from harness.benchmarks.floor import Floor
from harness.benchmarks.processes import MeasurementError, measured, parse, parser, record, turns, wide_console
from harness.benchmarks.ratios import Spread, ratios, wrong_work
from harness.benchmarks.work import Result, open_work, prepare
from harness.config import Config
from harness.errors import UserError
from harness.files import write_json

_FLOOR = "floor"


@dataclass
class Findings:
    """What the rounds brought. `rounds[name]` has an entry a round; None where the contestant failed."""

    config: Config
    images: int
    steps: int
    rounds: dict[str, list[Result | None]]
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    floor: Floor | None = None

    @property
    def results(self) -> dict[str, list[Result]]:
        """The finished rounds of those that finished any."""
        found = {name: [result for result in rounds if result] for name, rounds in self.rounds.items()}
        return {name: rounds for name, rounds in found.items() if rounds}

    def speeds(self, name: str) -> list[float | None]:
        """Images a second by round."""
        return [result.images_per_second if result else None for result in self.rounds[name]]

    def harness_ratio(self, name: str) -> Spread | None:
        """This harness's speed over another's, round by round."""
        return ratios(self.speeds(HARNESS), self.speeds(name)) if HARNESS in self.rounds else None

    def relative(self, name: str) -> Spread | None:
        """A contestant's speed over this harness's, round by round."""
        return ratios(self.speeds(name), self.speeds(HARNESS)) if HARNESS in self.rounds else None

    @property
    def utilisation(self) -> float | None:
        """The harness's model FLOPs utilisation, by its median speed."""
        own = self.results.get(HARNESS)
        if self.floor is None or not own:
            return None
        return self.floor.utilisation(statistics.median(result.images_per_second for result in own))

    def wrong(self) -> list[str]:
        """A sentence for each contestant that failed or did not do the same work."""
        compared = [name for name, contestant in contestants().items() if contestant.compared_loss]
        failures = [f"{name} failed: {why.splitlines()[-1]}" for name, why in self.failed.items()]
        return failures + wrong_work(self.results, compared, self.images, self.steps)


def main(arguments: Sequence[str]) -> None:
    """Compare the contestants, or, as their own processes are started, measure one.

    Raises:
        UserError: for wrong settings, and, after everything is written, for contestants that failed or whose loss or
            number of steps shows that they did not do the same work.
    """
    options = _options(arguments)
    config, _ = compose_config(options.overrides)
    if options.contestant:
        print(json.dumps(_measure_one(config, options)))
        return
    console = wide_console()
    findings = compare(config, options, console)
    console.print(_table(findings))
    for name, why in findings.skipped.items():
        console.print(f"skipped: {name}: {why}", highlight=False)
    console.print(f"written: {options.output}, {options.output.with_suffix('.png')}", highlight=False)
    if wrong := findings.wrong():
        raise UserError("speeds that mean nothing, of contestants that failed or did other work:\n" + "\n".join(wrong))


def compare(config: Config, options: Namespace, console: Console) -> Findings:
    """Let all contestants train in turn; write JSON after each turn and the chart after each round.

    Raises:
        UserError: when the data cannot be had or a file cannot be written.
    """
    chosen, skipped = _choose(options.only)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "data.pt"
        images = prepare(config, file) * options.epochs_timed
        findings = Findings(config, images, images // config.batch_size, {name: [] for name in chosen}, skipped)
        shared = [*options.overrides, "--data", str(file), "--epochs-timed", str(options.epochs_timed)]
        _measure_floor(findings, shared)
        began = time.monotonic()
        for number in range(options.rounds):
            if number and options.seconds is not None and time.monotonic() - began > options.seconds:
                break
            for name in turns(chosen, number):
                shown = _measure_round(findings, name, shared)
                console.print(f"round {number + 1} of {options.rounds}, {name}: {shown}", highlight=False)
                write_json(options.output, _record(findings, options.overrides))
            _draw(findings, options.output.with_suffix(".png"))
    return findings


def title(config: Config, results: Mapping[str, Sequence[Result]]) -> str:
    """Network, data, batch size and machine in words."""
    first = next(iter(results.values()))[0]
    network = getattr(config.model, "depth", getattr(config.model, "architecture", ""))
    model = f"{config.model.name} {network}".strip()
    threads = f", {first.threads} thread{'s' if first.threads > 1 else ''}" if first.device == "cpu" else ""
    return f"{model} on {config.data.name}, batch {config.batch_size}, {first.device}, {first.precision}{threads}"


def _options(arguments: Sequence[str]) -> Namespace:
    made = parser("train", __doc__, rounds=3)
    made.add_argument("--epochs-timed", type=int, default=1, help="epochs in each timed part (default: 1)")
    made.add_argument("--seconds", type=float, help="begin no further round after so many seconds")
    made.add_argument("--only", help="names of contestants, or how they begin, with commas between")
    made.add_argument("--contestant", help="measure this one in this process and print JSON")
    made.add_argument("--data", type=Path, help="with --contestant: the file that its benchmark prepared")
    options = parse(made, arguments)
    if options.epochs_timed < 1:
        raise UserError(f"--epochs-timed {options.epochs_timed}: must be 1 or more")
    known = [*contestants(), _FLOOR]
    if options.contestant and (options.contestant not in known or options.data is None):
        raise UserError(f"--contestant {options.contestant}: must be one of {', '.join(known)}, and needs --data FILE")
    return options


def _choose(only: str | None) -> tuple[list[str], dict[str, str]]:
    """The names of those that take part, and of those whose package is missing with the reason."""
    everyone = contestants()
    parts = tuple(part.strip().lower() for part in (only or "").split(","))
    wanted = [name for name in everyone if name.lower().startswith(parts)]
    if not wanted:
        raise UserError(f"--only {only}: must be how names begin, of {'; '.join(everyone)}")
    missing = [name for name in wanted if everyone[name].is_missing]
    reason = "{} is not installed; pip install -e '.[bench]' does it"
    skipped = {name: reason.format(everyone[name].package) for name in missing}
    if not (chosen := [name for name in wanted if name not in skipped]):
        raise UserError(f"--only {only}: {'; '.join(skipped.values())}")
    return chosen, skipped


def _measure_one(config: Config, options: Namespace) -> dict[str, Any]:
    work = open_work(config, options.data, options.epochs_timed)
    if options.contestant == _FLOOR:
        return asdict(floor.measure(work))
    return asdict(contestants()[options.contestant].measure(work))


def _measure_floor(findings: Findings, shared: Sequence[str]) -> None:
    try:
        findings.floor = Floor(**measured("train", [*shared, "--contestant", _FLOOR]))
    except MeasurementError as error:
        findings.failed[_FLOOR] = str(error)


def _measure_round(findings: Findings, name: str, shared: Sequence[str]) -> str:
    """One contestant's turn and what to say of it; who failed once is left out from then on."""
    result = None
    if name not in findings.failed:
        try:
            result = Result(**measured("train", [*shared, "--contestant", name]))
        except MeasurementError as error:
            findings.failed[name] = str(error)
    findings.rounds[name].append(result)
    return f"{result.images_per_second:,.0f} images/s" if result else f"failed: {findings.failed[name]}"


def _record(findings: Findings, overrides: Sequence[str]) -> dict[str, Any]:
    results = findings.results
    first = next(iter(results.values()))[0] if results else None
    spreads = {name: findings.harness_ratio(name) for name in results if name != HARNESS}
    return {
        **record(),
        "device": first and first.device,
        "precision": first and first.precision,
        "threads": first and first.threads,
        "overrides": list(overrides),
        "config": findings.config.plain(),
        "images_timed": findings.images,
        "steps_timed": findings.steps,
        "rounds": {name: [r and asdict(r) for r in rounds] for name, rounds in findings.rounds.items()},
        "harness_ratio": {name: asdict(spread) for name, spread in spreads.items() if spread},
        "floor": findings.floor
        and {
            **asdict(findings.floor),
            "images_per_second_by_flops": findings.floor.by_flops,
            "images_per_second_by_bytes": findings.floor.by_bytes,
            "harness_flops_utilisation": findings.utilisation,
        },
        "skipped": findings.skipped,
        "failed": findings.failed,
        "wrong": findings.wrong(),
    }


def _floors(findings: Findings) -> dict[str, float]:
    if findings.floor is None:
        return {}
    return {"floor by FLOPs": findings.floor.by_flops, "floor by bytes": findings.floor.by_bytes}


def _draw(findings: Findings, path: Path) -> None:
    own = findings.results.get(HARNESS)
    if not own:
        return
    bars = {name: spread for name in findings.results if (spread := findings.relative(name))}
    widest = max(bar.median for bar in bars.values())
    for name, speed in _floors(findings).items():
        bar = Spread.of([speed / result.images_per_second for result in own])
        # A floor far off, as that of a small network on a CPU, would leave nothing to see of the others.
        if bar.median < 3 * widest:
            bars[name] = bar
    label = "speed relative to this harness (median and range of rounds)"
    plot_bars(path, title(findings.config, findings.results), label, bars, (HARNESS,))


def _table(findings: Findings) -> Table:
    results = findings.results
    table = Table(title=title(findings.config, results) if results else "no contestant finished")
    table.add_column("contestant")
    for heading in ("images/s", "harness is ... times as fast", "host MB", "device MB", "loss"):
        table.add_column(heading, justify="right")
    for name, found in results.items():
        ratio = findings.harness_ratio(name) if name != HARNESS else None
        table.add_row(
            name,
            f"{statistics.median(result.images_per_second for result in found):,.0f}",
            str(ratio) if ratio else "",
            f"{statistics.median(result.host_bytes for result in found) / 1e6:,.0f}",
            f"{statistics.median(result.device_bytes for result in found) / 1e6:,.0f}",
            "" if name == BARE else f"{statistics.median(result.loss for result in found):.3f}",
        )
    for name, speed in _floors(findings).items():
        own = [result.images_per_second for result in results.get(HARNESS, [])]
        table.add_row(name, f"{speed:,.0f}", str(Spread.of([value / speed for value in own])) if own else "")
    if findings.utilisation is not None:
        table.caption = f"model FLOPs utilisation of this harness: {findings.utilisation:.1%} of the matrix rate"
    return table
