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
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks.contestants import BARE, CONTESTANTS, HARNESS, why_missing
from harness.benchmarks.rates import measure_floor
from harness.benchmarks.study import SPEED, MeasurementError, Row, Study, bars, chosen, count, measured, parser, table
from harness.benchmarks.work import open_work, prepare, take_images_from
from harness.config import Config
from harness.errors import UserError

_FLOOR = "floor"
# Other shuffles and crops move the mean loss of an epoch by a few per cent; a step left out, or a cheaper one, by more.
LOSS_RELATIVE, LOSS_ABSOLUTE = 0.15, 0.05


def main(arguments: Sequence[str]) -> None:
    """Compare the contestants, or, as their own processes are started, measure one."""
    made = parser("train", __doc__, rounds=3)
    made.add_argument("--epochs-timed", type=count, default=1, help="epochs in each timed part (default: 1)")
    made.add_argument("--seconds", type=float, help="begin no further round after so many seconds")
    made.add_argument("--only", default="", help="names of contestants, or how they begin, with commas between")
    alike = "the same memory format (channels_last) and fused optimizer for everyone, else as each comes"
    made.add_argument("--alike", action="store_true", help=alike)
    made.add_argument("--images", type=Path, help="decoded images that a benchmark saved, in place of the data's own")
    names = [*CONTESTANTS, _FLOOR]
    made.add_argument("--contestant", choices=names, help="with --data: measure it in this process and print JSON")
    made.add_argument("--data", type=Path, help="the file that a benchmark prepared for its contestants")
    options = made.parse_intermixed_args(list(arguments))
    config, _ = compose_config(options.overrides)
    if options.contestant:
        work = open_work(config, options.data, options.epochs_timed, options.alike)
        measure = measure_floor if options.contestant == _FLOOR else CONTESTANTS[options.contestant].measure
        print(json.dumps(measure(work)))
        return
    told = take_images_from(options.images) if options.images else config.data.name
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        study = _Comparison(options, config, told, Path(folder) / "data.pt")
        study.run([f"skipped: {name}: {why}" for name, why in study.known["skipped"].items()], options.seconds)


class _Comparison(Study):
    """`images` and `steps` are those of a timed part."""

    def __init__(self, options: Namespace, config: Config, data: str, file: Path) -> None:
        wanted = chosen(options.only, list(CONTESTANTS))
        skipped = {name: reason for name in wanted if (reason := why_missing(CONTESTANTS[name].package))}
        if len(skipped) == len(wanted):
            raise UserError(f"--only {options.only}: {'; '.join(skipped.values())}")
        self.config = config
        self.images = prepare(config, file) * options.epochs_timed
        self.steps = self.images // config.batch_size
        known = {
            "config": config.plain(), "data": data, "alike": options.alike, "skipped": skipped,
            "images_timed": self.images, "steps_timed": self.steps,
        }  # fmt: skip
        super().__init__(options, [[name for name in wanted if name not in skipped]], known)
        self.shared = [*options.overrides, "--data", str(file), "--epochs-timed", str(options.epochs_timed)]
        self.shared += ["--alike"] if options.alike else []
        self.floor: Row = {}
        try:
            self.floor = self.measure(_FLOOR)
        except MeasurementError as error:
            self.failed[_FLOOR] = str(error)
        by = ("FLOPs", "bytes") if self.floor else ()
        self.floors = {f"floor by {what}": self.floor[f"{SPEED}_by_{what.lower()}"] for what in by}

    def measure(self, name: str) -> Row:
        return measured("train", [*self.shared, "--contestant", name])

    def values(self, name: str, quantity: str) -> list[float | None]:
        """A floor is as fast in each round."""
        if name in self.floors:
            return [self.floors[name] if quantity == SPEED else None] * self.options.rounds
        return super().values(name, quantity)

    def record(self) -> dict[str, Any]:
        over = {name: self.ratio(HARNESS, name, SPEED) for name in self.rounds if name != HARNESS}
        return {
            **super().record(),
            "harness_ratio": {name: asdict(ratio) for name, ratio in over.items() if ratio},
            "floor": {**self.floor, "harness_flops_utilisation": self._utilisation()} if self.floor else None,
            "wrong": self.all_wrong(),
        }

    def wrong(self) -> list[str]:
        results = self.results()
        return wrong_work(results, self.images, self.steps) + (unlike(results) if self.options.alike else [])

    def table(self) -> Table:
        rows, results = [], self.results()
        for name in (*results, *self.floors):
            ratio = self.ratio(HARNESS, name, SPEED) if name != HARNESS else None
            memory = [self.median(name, f"{place}_bytes", scale=1e-6) for place in ("host", "device")]
            loss = "" if name == BARE else self.median(name, "loss", ".3f")
            how = treated(results[name][0]) if name in results else ""
            rows.append((name, how, self.median(name, SPEED), str(ratio or ""), *memory, loss))
        right = ("images/s", "harness is ... times as fast", "host MB", "device MB", "loss")
        made = table(self._title(), ["contestant", "treatment"], right, rows)
        if (used := self._utilisation()) is not None:
            made.caption = f"model FLOPs utilisation of this harness: {used:.1%} of the matrix rate"
        return made

    def chart(self) -> Figure | None:
        """A bar for each contestant, and for each floor that is not far off."""
        found = {name: ratio for name in (*self.rounds, *self.floors) if (ratio := self.ratio(name, HARNESS, SPEED))}
        widest = max((found[name].median for name in self.rounds if name in found), default=0)
        # A floor far off, as that of a small network on a CPU, would leave nothing to see of the others.
        near = {name: ratio for name, ratio in found.items() if name in self.rounds or ratio.median < 3 * widest}
        return bars(self._title(), "speed relative to this harness (median and range of rounds)", near, HARNESS)

    def _utilisation(self) -> float | None:
        """Model FLOPs utilisation of this harness: the part of the matrix rate that is used."""
        used = self.ratio(HARNESS, "floor by FLOPs", SPEED)
        return used.median if used else None

    def _title(self) -> str:
        config, first = self.config, self.first()
        if first is None:
            return "no contestant finished"
        network = getattr(config.model, "depth", getattr(config.model, "architecture", ""))
        model = f"{config.model.name} {network}".strip()
        device, threads = first["device"], first["threads"]
        cores = f", {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else ""
        return f"{model} on {config.data.name}, batch {config.batch_size}, {device}, {first['precision']}{cores}"


def wrong_work(results: Mapping[str, Sequence[Row]], images: int, steps: int) -> list[str]:
    """A sentence for each contestant that trained other than `images` images in `steps` steps, or whose loss is not
    like that of the others: all but the bare step's must lie within 15 % or 0.05 nats of their median."""
    found = []
    for name, rounds in results.items():
        counts = {(row["images"], row["steps"]) for row in rounds}
        if other := counts - {(images, steps)}:
            what = ", ".join(f"{i:,} images in {s:,} steps" for i, s in sorted(other))
            found.append(f"{name} trained {what}; must be {images:,} in {steps:,}")
    losses = {name: statistics.median(row["loss"] for row in rows) for name, rows in results.items() if name != BARE}
    if not losses:
        return found
    middle = statistics.median(losses.values())
    allowed = max(LOSS_ABSOLUTE, LOSS_RELATIVE * middle)
    for name, loss in losses.items():
        if not abs(loss - middle) <= allowed:
            found.append(f"{name} has the loss {loss:.3f}; must be {middle:.3f} (the median of all) +- {allowed:.3f}")
    return found


def treated(row: Row) -> str:
    """What was done for speed's sake, in words."""
    return ", ".join(what for what, done in row["treatment"].items() if done) or "eager"


def unlike(results: Mapping[str, Sequence[Row]]) -> list[str]:
    """A sentence for each contestant that was not treated as the first one was."""
    hows = {name: treated(rows[0]) for name, rows in results.items()}
    first = next(iter(hows.values()), "")
    return [f"{name} was treated otherwise: {how}; must be {first}" for name, how in hows.items() if how != first]
