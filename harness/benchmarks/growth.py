"""How speed grows with batch size, image size and network size: this harness, the bare step and a DataLoader loop.

Each point is made-up images through `benchmark.py train`'s contestants, each in a process of its own, in turn.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks.charts import plot_lines
from harness.benchmarks.contestants import BARE, HARNESS, contestants
from harness.benchmarks.processes import MeasurementError, measured, parse, parser, record, turns, wide_console
from harness.benchmarks.ratios import Spread, ratios
from harness.benchmarks.work import Result, prepare
from harness.errors import UserError
from harness.files import write_json

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


@dataclass
class Point:
    """One value of one axis: the rounds of each contestant, None where it failed."""

    axis: str
    value: str
    rounds: dict[str, list[Result | None]]

    def speeds(self, name: str) -> list[float | None]:
        """Images a second by round."""
        return [result.images_per_second if result else None for result in self.rounds[name]]

    def ratio(self, name: str) -> Spread | None:
        """This harness's speed over another's, round by round."""
        return ratios(self.speeds(HARNESS), self.speeds(name))


def main(arguments: Sequence[str]) -> None:
    """Measure every point of the chosen axes; print the table, write JSON and a chart.

    Raises:
        UserError: for wrong settings, and, after everything is written, when a measurement failed.
    """
    options = _options(arguments)
    console, failed = wide_console(), dict[str, str]()
    points: list[Point] = []
    for axis in options.axes:
        for value in AXES[axis]:
            points.append(_measured(axis, value, options, failed))
            _say(console, points[-1])
            write_json(options.output, _record(points, options, failed))
    console.print(_table(points))
    _draw(options.output.with_suffix(".png"), points)
    console.print(f"written: {options.output}, {options.output.with_suffix('.png')}", highlight=False)
    if failed:
        raise UserError("failed: " + "; ".join(f"{where}: {why.splitlines()[-1]}" for where, why in failed.items()))


def _options(arguments: Sequence[str]) -> Namespace:
    made = parser("growth", __doc__, rounds=1)
    made.add_argument("--steps", type=int, default=30, help="optimizer steps in each timed part (default: 30)")
    made.add_argument("--axes", default=",".join(AXES), help=f"with commas between (default: {','.join(AXES)})")
    options = parse(made, arguments)
    options.axes = [axis.strip() for axis in options.axes.split(",")]
    if unknown := [axis for axis in options.axes if axis not in AXES]:
        raise UserError(f"--axes {unknown[0]}: must be of {', '.join(AXES)}")
    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: must be 1 or more")
    return options


def _measured(axis: str, value: str, options: Namespace, failed: dict[str, str]) -> Point:
    settings = ["data=synthetic", *options.overrides, *AXES[axis][value]]
    images = options.steps * compose_config(settings)[0].batch_size
    # A tenth is held out for validation.
    overrides = [*settings, f"data.images={images * 10 // 9 + 20}", f"data.train_size={images}"]
    point = Point(axis, value, {name: [] for name in _COMPARED})
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        file = Path(folder) / "data.pt"
        prepare(compose_config(overrides)[0], file)
        for number in range(options.rounds):
            for name in turns(_COMPARED, number):
                try:
                    answer = measured("train", [*overrides, "--data", str(file), "--contestant", name])
                    point.rounds[name].append(Result(**answer))
                except MeasurementError as error:
                    failed[f"{axis} {value}, {name}"] = str(error)
                    point.rounds[name].append(None)
    return point


def _median(point: Point, name: str) -> str:
    speeds = [speed for speed in point.speeds(name) if speed is not None]
    return f"{statistics.median(speeds):,.0f}" if speeds else "failed"


def _say(console: Console, point: Point) -> None:
    speeds = ", ".join(f"{name} {_median(point, name)}" for name in _COMPARED)
    console.print(f"{point.axis} {point.value}, images/s: {speeds}", highlight=False)


def _record(points: Sequence[Point], options: Namespace, failed: dict[str, str]) -> dict[str, Any]:
    return {
        **record(),
        "overrides": options.overrides,
        "steps_timed": options.steps,
        "points": [
            {
                "axis": point.axis,
                "value": point.value,
                "rounds": {name: [r and asdict(r) for r in found] for name, found in point.rounds.items()},
                "harness_ratio": {name: (s := point.ratio(name)) and asdict(s) for name in (BARE, _LOADER)},
            }
            for point in points
        ],
        "failed": failed,
    }


def _table(points: Sequence[Point]) -> Table:
    first = next((r for point in points for r in point.rounds[HARNESS] if r), None)
    table = Table(title=f"Growth, {first.device}, {first.precision}" if first else "Growth")
    for heading in ("varied", "value"):
        table.add_column(heading)
    for heading in ("harness, images/s", "over bare step", f"over {_LOADER}"):
        table.add_column(heading, justify="right")
    for point in points:
        shown = [str(point.ratio(name) or "") for name in (BARE, _LOADER)]
        table.add_row(point.axis, point.value, _median(point, HARNESS), *shown)
    return table


def _draw(path: Path, points: Sequence[Point]) -> None:
    panels: dict[str, dict[str, dict[str, Spread]]] = {}
    for point in points:
        for name in (BARE, _LOADER):
            if ratio := point.ratio(name):
                panels.setdefault(point.axis, {}).setdefault(f"over {name}", {})[point.value] = ratio
    if panels:
        plot_lines(path, "Growth", "this harness's speed, times the other's", panels)
