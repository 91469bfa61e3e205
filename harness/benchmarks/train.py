"""Training beside its peers: the same network, images, batches and precision through each contestant.

Each contestant is a process of its own; they take turns, for several rounds, each round beginning with another one.
Timed are whole training epochs after a warm-up of ten steps: start-up, reading the data into memory and evaluation are
left out; what a loader does at the start of an epoch is in. The loader's workers stay between epochs, as its
documentation advises, so that starting them is in the warm-up.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks import floor
from harness.benchmarks.charts import plot_bars
from harness.benchmarks.contestants import BARE, HARNESS, contestants
from harness.benchmarks.floor import Floor
from harness.benchmarks.processes import MeasurementError, measured
from harness.benchmarks.ratios import Spread, wrong_work
from harness.benchmarks.study import Study, chosen, parser, positive, table
from harness.benchmarks.work import SPEED, Result, open_work, prepare
from harness.config import Config
from harness.errors import UserError

_FLOOR = "floor"


@dataclass(frozen=True)
class Conditions:
    """What holds for all rounds: settings, training images in a timed part, who is left out and why, and the floor."""

    config: Config
    images: int
    skipped: dict[str, str]
    floor: Floor | None

    @property
    def steps(self) -> int:
        """Optimizer steps in a timed part."""
        return self.images // self.config.batch_size

    @property
    def floors(self) -> dict[str, float]:
        """Images a second by arithmetic."""
        return {"floor by FLOPs": self.floor.by_flops, "floor by bytes": self.floor.by_bytes} if self.floor else {}

    def record(self, study: Study[Result]) -> dict[str, Any]:
        """What JSON holds."""
        first = study.first()
        ratios = {name: study.ratio(HARNESS, name, SPEED) for name in study.rounds if name != HARNESS}
        return {
            **{name: getattr(first, name, None) for name in ("device", "precision", "threads")},
            "config": self.config.plain(),
            "images_timed": self.images,
            "steps_timed": self.steps,
            "rounds": study.as_json(),
            "harness_ratio": {name: asdict(ratio) for name, ratio in ratios.items() if ratio},
            "floor": self.floor
            and {
                **asdict(self.floor),
                "images_per_second_by_flops": self.floor.by_flops,
                "images_per_second_by_bytes": self.floor.by_bytes,
                "harness_flops_utilisation": self._utilisation(study),
            },
            "skipped": self.skipped,
            "wrong": study.all_wrong(),
        }

    def wrong(self, study: Study[Result]) -> list[str]:
        """Who did not do the same work."""
        compared = [name for name, contestant in contestants().items() if contestant.compared_loss]
        return wrong_work(study.results(), compared, self.images, self.steps)

    def table(self, study: Study[Result]) -> Table:
        """A row for each contestant, and for each floor."""
        rows = []
        for name in study.results():
            ratio = study.ratio(HARNESS, name, SPEED) if name != HARNESS else None
            memory = [study.median(name, f"{place}_bytes", scale=1e-6) for place in ("host", "device")]
            loss = "" if name == BARE else study.median(name, "loss", ".3f")
            rows.append((name, study.median(name, SPEED), str(ratio or ""), *memory, loss))
        for name, speed in self.floors.items():
            over = [own / speed for own in _own_speeds(study)]
            rows.append((name, f"{speed:,.0f}", str(Spread.of(over)) if over else ""))
        right = ("images/s", "harness is ... times as fast", "host MB", "device MB", "loss")
        made = table(self._title(study), ["contestant"], right, rows)
        if (used := self._utilisation(study)) is not None:
            made.caption = f"model FLOPs utilisation of this harness: {used:.1%} of the matrix rate"
        return made

    def draw(self, study: Study[Result], path: Path) -> bool:
        """A bar for each contestant, and for each floor that is not far off."""
        bars = {name: ratio for name in study.rounds if (ratio := study.ratio(name, HARNESS, SPEED))}
        if not bars:
            return False
        widest = max(bar.median for bar in bars.values())
        for name, speed in self.floors.items():
            bar = Spread.of([speed / own for own in _own_speeds(study)])
            # A floor far off, as that of a small network on a CPU, would leave nothing to see of the others.
            if bar.median < 3 * widest:
                bars[name] = bar
        label = "speed relative to this harness (median and range of rounds)"
        plot_bars(path, self._title(study), label, bars, (HARNESS,))
        return True

    def _utilisation(self, study: Study[Result]) -> float | None:
        own = study.spread(HARNESS, SPEED)
        return self.floor.utilisation(own.median) if self.floor and own else None

    def _title(self, study: Study[Result]) -> str:
        config, first = self.config, study.first()
        if first is None:
            return "no contestant finished"
        network = getattr(config.model, "depth", getattr(config.model, "architecture", ""))
        model = f"{config.model.name} {network}".strip()
        threads = f", {first.threads} thread{'s' if first.threads > 1 else ''}" if first.device == "cpu" else ""
        return f"{model} on {config.data.name}, batch {config.batch_size}, {first.device}, {first.precision}{threads}"


def main(arguments: Sequence[str]) -> None:
    """Compare the contestants, or, as their own processes are started, measure one.

    Raises:
        UserError: for wrong settings, and, after everything is written, for contestants that failed or whose loss or
            number of steps shows that they did not do the same work.
    """
    options = _options(arguments)
    config, _ = compose_config(options.overrides)
    if options.contestant:
        work = open_work(config, options.data, options.epochs_timed)
        measure = floor.measure if options.contestant == _FLOOR else contestants()[options.contestant].measure
        print(json.dumps(asdict(measure(work))))
        return
    able, skipped = _able(options.only)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "data.pt"
        images = prepare(config, file) * options.epochs_timed
        shared = [*options.overrides, "--data", str(file), "--epochs-timed", str(options.epochs_timed)]

        def answer(name: str) -> dict[str, Any]:
            return measured("train", [*shared, "--contestant", name])

        bound, failed = None, {}
        try:
            bound = Floor(**answer(_FLOOR))
        except MeasurementError as error:
            failed[_FLOOR] = str(error)
        on = Conditions(config, images, skipped, bound)
        study = Study(
            options, [able], lambda name: Result(**answer(name)), on.record, on.table, on.draw, on.wrong, failed
        )
        study.run([f"skipped: {name}: {why}" for name, why in skipped.items()], options.seconds)


def _options(arguments: Sequence[str]) -> Namespace:
    made = parser("train", __doc__, rounds=3)
    made.add_argument("--epochs-timed", type=positive, default=1, help="epochs in each timed part (default: 1)")
    made.add_argument("--seconds", type=float, help="begin no further round after so many seconds")
    made.add_argument("--only", default="", help="names of contestants, or how they begin, with commas between")
    names = [*contestants(), _FLOOR]
    made.add_argument("--contestant", choices=names, help="with --data: measure it in this process and print JSON")
    made.add_argument("--data", type=Path, help="the file that a benchmark prepared for its contestants")
    return made.parse_intermixed_args(list(arguments))


def _able(only: str) -> tuple[list[str], dict[str, str]]:
    """The names of those that take part, and of those whose package is missing with the reason."""
    everyone = contestants()
    wanted = chosen(only, list(everyone))
    skipped = {name: reason for name in wanted if (reason := everyone[name].why_missing)}
    if len(skipped) == len(wanted):
        raise UserError(f"--only {only}: {'; '.join(skipped.values())}")
    return [name for name in wanted if name not in skipped], skipped


def _own_speeds(study: Study[Result]) -> list[float]:
    return [result.images_per_second for result in study.results().get(HARNESS, [])]
