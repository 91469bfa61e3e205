"""What each feature costs: whole epochs of real runs with it over those of runs without it.

A run is `harness.runs.run` in a process of its own, with everything as train.py has it by default but for the one
change measured. Timed is from the start of epoch 1 to the start of the last epoch, so that evaluation, files and
display between epochs are in, start-up and compilation are not. Ratios are taken round by round. Costs that do not
depend on the length of an epoch are better read in milliseconds an epoch, which stand beside them.
"""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rich
import torch
from rich.table import Table

import harness.training.loop
from harness.app.compose import compose_config
from harness.benchmarks.charts import plot_bars
from harness.benchmarks.processes import MeasurementError, measured, parse, parser, record, turns, wide_console
from harness.benchmarks.ratios import Spread, ratios
from harness.config import Config
from harness.errors import UserError
from harness.files import write_json
from harness.runs.checkpoints import Checkpoints
from harness.runs.request import Request
from harness.runs.run import run
from harness.runs.tracking import Tracker
from harness.stages.store import open_store
from harness.stages.walk import Sharing

BASE = "as by default"
# An epoch of some tenths of a second on one core; the twelfth epoch ends the time, the store saves after the tenth.
_WORK = ("data=synthetic", "data.images=5000", "data.image_size=16", "data.channels=1")
_SETTINGS = (
    "epochs=12",
    "deterministic=true",
    "compile=false",
    "cuda_graphs=false",
    "precision=auto",
    "checkpoint.every=1",
)


@dataclass(frozen=True)
class Change:
    """One change to the run: settings, or a part that is replaced while it runs. `adds` tells whether it adds the
    feature that it is named after, or takes it away."""

    adds: bool
    overrides: tuple[str, ...] = ()
    replaced: Callable[[], AbstractContextManager[Any]] = nullcontext
    has_store: bool = True


def _bar() -> AbstractContextManager[Any]:
    """A terminal that is not looked at."""
    rich.reconfigure(force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    return nullcontext()


CHANGES: dict[str, Change] = {
    BASE: Change(adds=True),
    "determinism": Change(adds=False, overrides=("deterministic=false",)),
    "TensorBoard and metrics.jsonl": Change(adds=False, replaced=lambda: patch.object(Tracker, "epoch")),
    "a checkpoint every epoch": Change(
        adds=False, replaced=lambda: patch.object(Checkpoints, "is_due", return_value=False)
    ),
    "stage store, every 10 epochs": Change(adds=False, has_store=False),
    "keeping freed memory": Change(adds=False, replaced=lambda: patch("harness.training.learner.keep_freed_memory")),
    "progress bar": Change(adds=True, replaced=_bar),
    "compile=true": Change(adds=True, overrides=("compile=true",)),
    "cuda_graphs=true": Change(adds=True, overrides=("cuda_graphs=true",)),
    "precision=fp32": Change(adds=True, overrides=("precision=fp32",)),
    "precision=bf16": Change(adds=True, overrides=("precision=bf16",)),
}


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch with all that comes between epochs, and where it ran."""

    seconds: float
    device: str
    precision: str
    threads: int


def main(arguments: Sequence[str]) -> None:
    """Measure all changes in turn, or, as their own processes are started, one.

    Raises:
        UserError: for wrong settings, and, after everything is written, when a run failed.
    """
    options = _options(arguments)
    work = () if any(text.startswith("data=") for text in options.overrides) else _WORK
    given = [*work, *_SETTINGS, *options.overrides]
    if options.change:
        config, name = compose_config([*given, *CHANGES[options.change].overrides])
        print(json.dumps(asdict(_measure(config, name, CHANGES[options.change]))))
        return
    config, _ = compose_config(given)
    if config.epochs < 3:
        raise UserError(f"epochs={config.epochs}: must be 3 or more to time whole epochs")
    console, failed = wide_console(), dict[str, str]()
    chosen = [name for name in CHANGES if name == BASE or name.lower().startswith(options.only)]
    rounds: dict[str, list[Timing | None]] = {name: [] for name in chosen}
    for number in range(options.rounds):
        for name in turns(chosen, number):
            timing = None
            if name not in failed:
                try:
                    timing = Timing(**measured("features", [*options.overrides, "--change", name]))
                except MeasurementError as error:
                    failed[name] = str(error)
            rounds[name].append(timing)
            shown = f"{timing.seconds:.3f} s an epoch" if timing else f"failed: {failed[name]}"
            console.print(f"round {number + 1} of {options.rounds}, {name}: {shown}", highlight=False)
            write_json(options.output, _record(config, rounds, failed))
    console.print(_table(rounds))
    _draw(options.output.with_suffix(".png"), rounds)
    console.print(f"written: {options.output}, {options.output.with_suffix('.png')}", highlight=False)
    if failed:
        raise UserError("failed: " + ", ".join(failed))


def _options(arguments: Sequence[str]) -> Namespace:
    made = parser("features", __doc__, rounds=3)
    made.add_argument("--only", default="", help="features, or how their names begin, with commas between")
    made.add_argument("--change", choices=CHANGES, help="measure this one in this process and print JSON")
    options = parse(made, arguments)
    options.only = tuple(part.strip().lower() for part in options.only.split(","))
    if not any(name.lower().startswith(options.only) for name in CHANGES if name != BASE):
        raise UserError(f"--only {','.join(options.only)}: must be how names begin, of {'; '.join(CHANGES)}")
    return options


def _measure(config: Config, scheduler: str, change: Change) -> Timing:
    starts: list[float] = []
    original = harness.training.loop.train_epoch

    def noting_the_time(*arguments: Any, **named: Any) -> Any:
        starts.append(time.perf_counter())
        return original(*arguments, **named)

    with tempfile.TemporaryDirectory(prefix="features-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        stages = config.stages.model_copy(update={"dir": str(folder / "stages")})
        sharing = Sharing(open_store(stages), False, stages.every) if change.has_store else None
        stack.enter_context(patch("harness.training.learner.train_epoch", noting_the_time))
        stack.enter_context(change.replaced())
        summary = run(Request(config, scheduler, folder / "run", resume=False, sharing=sharing))
        recorded = json.loads((folder / "run" / "run.json").read_text())
    precision = recorded["identity"]["precision"]
    return Timing((starts[-1] - starts[1]) / (len(starts) - 2), str(summary.device), precision, torch.get_num_threads())


def _cost(rounds: dict[str, list[Timing | None]], name: str) -> tuple[Spread, Spread] | None:
    """With the feature over without it, and the milliseconds of an epoch that it adds, round by round."""
    base, changed = ([t.seconds if t else None for t in rounds[key]] for key in (BASE, name))
    having, lacking = (changed, base) if CHANGES[name].adds else (base, changed)
    found = ratios(having, lacking)
    added = [1e3 * (a - b) for a, b in zip(having, lacking, strict=False) if a is not None and b is not None]
    return (found, Spread.of(added)) if found else None


def _record(config: Config, rounds: dict[str, list[Timing | None]], failed: dict[str, str]) -> dict[str, Any]:
    costs = {name: _cost(rounds, name) for name in rounds if name != BASE}
    return {
        **record(),
        "config": config.plain(),
        "rounds": {name: [t and asdict(t) for t in timings] for name, timings in rounds.items()},
        "time_with_over_without": {name: asdict(cost[0]) for name, cost in costs.items() if cost},
        "milliseconds_an_epoch": {name: asdict(cost[1]) for name, cost in costs.items() if cost},
        "failed": failed,
    }


def _table(rounds: dict[str, list[Timing | None]]) -> Table:
    base = [timing for timing in rounds[BASE] if timing]
    where = f": {Spread.of([t.seconds for t in base])} s, {base[0].device}, {base[0].precision}" if base else ""
    table = Table(title=f"Cost of features; an epoch as by default{where}")
    table.add_column("feature")
    table.add_column("time with it over without", justify="right")
    table.add_column("ms an epoch", justify="right")
    for name in rounds:
        if name != BASE and (cost := _cost(rounds, name)):
            table.add_row(name, str(cost[0]), f"{cost[1].median:+.1f} ({cost[1].min:+.1f} to {cost[1].max:+.1f})")
    return table


def _draw(path: Path, rounds: dict[str, list[Timing | None]]) -> None:
    costs = {name: cost[0] for name in rounds if name != BASE and (cost := _cost(rounds, name))}
    if costs:
        plot_bars(path, "Cost of features", "time of an epoch with it over without (median and range)", costs, ())
