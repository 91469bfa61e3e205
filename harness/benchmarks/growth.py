"""How speed grows with batch size, image size and network size: this harness, the bare step and a DataLoader loop.

Each point is made-up images through `benchmark.py train`'s contestants, each in a process of its own, in turn.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks.charts import plot_lines
from harness.benchmarks.contestants import BARE, HARNESS, contestants
from harness.benchmarks.processes import measured
from harness.benchmarks.ratios import Spread
from harness.benchmarks.study import Study, parser, positive, table
from harness.benchmarks.work import SPEED, Result, prepare
from harness.errors import UserError

# The axes by name, and for each value the settings that make it.
AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "batch size": {str(size): (f"batch_size={size}",) for size in (32, 64, 128, 256, 512, 1024)},
    "image size": {str(size): (f"data.image_size={size}",) for size in (16, 32, 64, 128)},
    "network": {
        "cnn/4": ("model.channels=[8,16,32]",),
        "cnn": (),
        "cnn x 2": ("model.channels=[64,128,256]",),
        "resnet20": ("model=resnet20",),
        "resnet56": ("model=resnet56",),
        "resnet18": ("model=resnet18",),
    },
}
_LOADER = list(contestants())[3]
_COMPARED = (HARNESS, BARE, _LOADER)


@dataclass(frozen=True)
class Point:
    """One value of one axis."""

    axis: str
    value: str

    def of(self, name: str) -> str:
        """A contestant at this point, as the study names it."""
        return f"{self.axis} {self.value}, {name}"

    def ratios(self, study: Study[Result]) -> dict[str, Spread | None]:
        """This harness's speed over the others' here, round by round."""
        return {name: study.ratio(self.of(HARNESS), self.of(name), SPEED) for name in (BARE, _LOADER)}


def main(arguments: Sequence[str]) -> None:
    """Measure every point of the chosen axes; print the table, write JSON and a chart.

    Raises:
        UserError: for wrong settings, and, after everything is written, when a measurement failed.
    """
    options = _options(arguments)
    points = [Point(axis, value) for axis in options.axes for value in AXES[axis]]
    places = {point.of(name): (point, name) for point in points for name in _COMPARED}
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        file = Path(folder) / "data.pt"

        # The contestants of a point come one after the other.
        @lru_cache(maxsize=1)
        def prepared(point: Point) -> list[str]:
            settings = ["data=synthetic", *options.overrides, *AXES[point.axis][point.value]]
            images = options.steps * compose_config(settings)[0].batch_size
            # A tenth is held out for validation.
            overrides = [*settings, f"data.images={images * 10 // 9 + 20}", f"data.train_size={images}"]
            prepare(compose_config(overrides)[0], file)
            return [*overrides, "--data", str(file)]

        def measure(name: str) -> Result:
            point, contestant = places[name]
            return Result(**measured("train", [*prepared(point), "--contestant", contestant]))

        def record(study: Study[Result]) -> dict[str, Any]:
            return {"steps_timed": options.steps, "points": [_point_as_json(point, study) for point in points]}

        groups = [[point.of(name) for name in _COMPARED] for point in points]
        Study(options, groups, measure, record, partial(_table, points), partial(_draw, points)).run()


def _options(arguments: Sequence[str]) -> Namespace:
    made = parser("growth", __doc__, rounds=1)
    made.add_argument("--steps", type=positive, default=30, help="optimizer steps in each timed part (default: 30)")
    made.add_argument("--axes", default=",".join(AXES), help=f"with commas between (default: {','.join(AXES)})")
    options = made.parse_intermixed_args(list(arguments))
    options.axes = [axis.strip() for axis in options.axes.split(",")]
    if unknown := [axis for axis in options.axes if axis not in AXES]:
        raise UserError(f"--axes {unknown[0]}: must be of {', '.join(AXES)}")
    return options


def _point_as_json(point: Point, study: Study[Result]) -> dict[str, Any]:
    rounds = study.as_json()
    return {
        **asdict(point),
        "rounds": {name: rounds[point.of(name)] for name in _COMPARED},
        "harness_ratio": {name: ratio and asdict(ratio) for name, ratio in point.ratios(study).items()},
    }


def _table(points: Sequence[Point], study: Study[Result]) -> Table:
    rows = []
    for point in points:
        speed = study.median(point.of(HARNESS), SPEED) or "failed"
        rows.append((point.axis, point.value, speed, *(str(ratio or "") for ratio in point.ratios(study).values())))
    first = study.first()
    title = f"Growth, {first.device}, {first.precision}" if first else "Growth"
    return table(title, ["varied", "value"], ["harness, images/s", "over bare step", f"over {_LOADER}"], rows)


def _draw(points: Sequence[Point], study: Study[Result], path: Path) -> bool:
    panels: dict[str, dict[str, dict[str, Spread]]] = {}
    for point in points:
        for name, ratio in point.ratios(study).items():
            if ratio:
                panels.setdefault(point.axis, {}).setdefault(f"over {name}", {})[point.value] = ratio
    if panels:
        plot_lines(path, "Growth", "this harness's speed, times the other's", panels)
    return bool(panels)
