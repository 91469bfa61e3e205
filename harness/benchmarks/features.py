"""What each feature costs: whole epochs of real runs with it over those of runs without it.

A run is `harness.runs.run` in a process of its own, with everything as train.py has it by default but for the one
change measured. Timed is from the start of epoch 1 to the start of the last epoch, so that evaluation, files and
display between epochs are in, start-up and compilation are not. Ratios are taken round by round. Costs that do not
depend on the length of an epoch are better read in milliseconds an epoch, which stand beside them.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rich
import torch
from matplotlib.figure import Figure
from rich.table import Table

import harness.machine
from harness.app.compose import compose_config
from harness.benchmarks.study import Row, Spread, Study, bars, chosen, measured, parser, ratios, table
from harness.config import ClassConfig, Config
from harness.errors import UserError
from harness.runs import run as run_module
from harness.runs.request import Request
from harness.runs.run import run
from harness.runs.tracking import Tracker
from harness.stages.store import open_store
from harness.stages.walk import Sharing

BASE = "as by default"
# An epoch of some tenths of a second on one core; the twelfth epoch ends the time, the store saves after the tenth.
_WORK = ("data=synthetic", "data.images=5000", "data.image_size=16", "data.channels=1")
_SETTINGS = (
    "epochs=12", "deterministic=true", "compile=false", "cuda_graphs=false", "precision=auto",
)  # fmt: skip


def _replaced(owner: object, name: str, other: object) -> Callable[[], None]:
    """Another attribute in the place of one, for what no setting turns off; the process is left so."""
    return lambda: setattr(owner, name, other)


def _without_checkpoints() -> None:
    for name in ("_save_checkpoint", "_keep_best"):
        setattr(run_module, name, lambda *_: None)


def _with_a_bar() -> None:
    """A terminal that is not looked at."""
    rich.reconfigure(force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115


@dataclass(frozen=True)
class Change:
    """One change to the run: settings, or something done beforehand in its process. `adds` tells whether it adds the
    feature that it is named after, or takes it away."""

    adds: bool
    overrides: tuple[str, ...] = ()
    prepare: Callable[[], None] = lambda: None


CHANGES: dict[str, Change] = {
    BASE: Change(adds=True),
    "determinism": Change(adds=False, overrides=("deterministic=false",)),
    "TensorBoard and metrics.jsonl": Change(adds=False, prepare=_replaced(Tracker, "epoch", lambda *_: None)),
    "a checkpoint every epoch": Change(adds=True, overrides=("checkpoint.every=1",)),
    # By settings alone the last epoch would still be saved, and the best one set aside for it.
    "checkpoints as by default": Change(adds=False, prepare=_without_checkpoints),
    # Then only the state after the last epoch, which is not timed.
    "stage store, every 10 epochs": Change(adds=False, overrides=("stages.every=100000",)),
    # As with a C library that has no mallopt.
    "keeping freed memory": Change(adds=False, prepare=_replaced(harness.machine, "ctypes", None)),
    "progress bar": Change(adds=True, prepare=_with_a_bar),
    **{
        setting: Change(adds=True, overrides=(setting,))
        for setting in ("compile=true", "cuda_graphs=true", "precision=fp32", "precision=bf16")
    },
}


def main(arguments: Sequence[str]) -> None:
    """Measure all changes in turn, or, as their own processes are started, one."""
    made = parser("features", __doc__, rounds=3)
    made.add_argument("--only", default="", help="features, or how their names begin, with commas between")
    made.add_argument("--change", choices=CHANGES, help="measure this one in this process and print JSON")
    options = made.parse_intermixed_args(list(arguments))
    work = () if any(text.startswith("data=") for text in options.overrides) else _WORK
    given = [*work, *_SETTINGS, *options.overrides]
    if options.change:
        config, name = compose_config([*given, *CHANGES[options.change].overrides])
        print(json.dumps(_measure(config, name, CHANGES[options.change])))
        return
    config, _ = compose_config(given)
    if config.epochs < 3:
        raise UserError(f"epochs={config.epochs}: must be 3 or more to time whole epochs")
    names = [BASE, *chosen(options.only, [name for name in CHANGES if name != BASE])]
    _Features(options, [names], {"config": config.plain()}).run()


class _Features(Study):
    def measure(self, name: str) -> Row:
        return measured("features", [*self.options.overrides, "--change", name])

    def said(self, row: Row) -> str:
        return f"{row['seconds']:.3f} s an epoch"

    def costs(self) -> dict[str, tuple[Spread, Spread]]:
        return {name: cost for name in self.rounds if name != BASE and (cost := _cost(self.rounds, name))}

    def record(self) -> dict[str, Any]:
        return {
            **super().record(),
            "time_with_over_without": {name: asdict(ratio) for name, (ratio, _) in self.costs().items()},
            "milliseconds_an_epoch": {name: asdict(added) for name, (_, added) in self.costs().items()},
        }

    def table(self) -> Table:
        base = self.results().get(BASE)
        where = f": {self.spread(BASE, 'seconds')} s, {base[0]['device']}, {base[0]['precision']}" if base else ""
        rows = [
            (name, str(ratio), f"{added.median:+.1f} ({added.min:+.1f} to {added.max:+.1f})")
            for name, (ratio, added) in self.costs().items()
        ]
        title = f"Cost of features; an epoch as by default{where}"
        return table(title, ["feature"], ["time with it over without", "ms an epoch"], rows)

    def chart(self) -> Figure | None:
        label = "time of an epoch with it over without (median and range)"
        return bars("Cost of features", label, {name: ratio for name, (ratio, _) in self.costs().items()})


def _cost(rounds: Mapping[str, Sequence[Row | None]], name: str) -> tuple[Spread, Spread] | None:
    """With the feature over without it, and the milliseconds of an epoch that it adds, round by round."""
    base, changed = ([row["seconds"] if row else None for row in rounds[key]] for key in (BASE, name))
    having, lacking = (changed, base) if CHANGES[name].adds else (base, changed)
    found = ratios(having, lacking)
    added = [1e3 * (a - b) for a, b in zip(having, lacking, strict=False) if a is not None and b is not None]
    return (found, Spread.of(added)) if found else None


class _Starts(logging.Handler):
    """Notes when epochs start: a run announces each change of the learning rate there."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[int, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("epoch %d: learning rate") and isinstance(record.args, tuple):
            self.seconds[int(str(record.args[0]))] = time.perf_counter()


def _measure(config: Config, name: str, change: Change) -> Row:
    """Seconds of an epoch with all that comes between epochs, and where it ran."""
    last, starts, logger = config.epochs - 1, _Starts(), logging.getLogger("harness")
    logger.setLevel(logging.INFO)
    logger.addHandler(starts)
    # No schedule costs time; of this one the changes are where the time begins and ends.
    target = "torch.optim.lr_scheduler.MultiStepLR"
    scheduler = ClassConfig.model_validate({"_target_": target, "milestones": [1, last], "gamma": 0.5})
    config = config.model_copy(update={"scheduler": scheduler})
    change.prepare()
    with tempfile.TemporaryDirectory(prefix="features-") as scratch:
        folder = Path(scratch)
        stages = config.stages.model_copy(update={"dir": str(folder / "stages")})
        sharing = Sharing(open_store(stages), False, stages.every)
        summary = run(Request(config, name, folder / "run", resume=False, sharing=sharing))
        recorded = json.loads((folder / "run" / "run.json").read_text())
    logger.removeHandler(starts)
    logger.setLevel(logging.NOTSET)
    seconds = (starts.seconds[last] - starts.seconds[1]) / (last - 1)
    ran = {"device": str(summary.device), "precision": recorded["identity"]["precision"]}
    return {"seconds": seconds, **ran, "threads": torch.get_num_threads()}
