"""How speed grows with batch size, image size and network size: this harness, the bare step and a DataLoader loop.

Each point is made-up images through `benchmark.py train`'s contestants, each in a process of its own, in turn.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks.contestants import BARE, HARNESS, PLAIN_LOOP
from harness.benchmarks.study import SPEED, Row, Spread, Study, count, measured, parser, table
from harness.benchmarks.work import prepare
from harness.errors import UserError
from harness.views.style import COLOURS, DASHES, MARK, margins

# The axes by name, and for each value the settings that make it.
AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "batch size": {str(size): (f"batch_size={size}",) for size in (32, 64, 128, 256, 512, 1024)},
    "image size": {str(size): (f"data.image_size={size}",) for size in (16, 32, 64, 128)},
    "network": {
        "cnn/4": ("model.channels=[8,16,32]",),
        "cnn": (),
        "cnn x 2": ("model.channels=[64,128,256]",),
        **{model: (f"model={model}",) for model in ("resnet20", "resnet56", "resnet18")},
    },
}
_OTHERS = (BARE, PLAIN_LOOP)
_ALL = (HARNESS, *_OTHERS)


def main(arguments: Sequence[str]) -> None:
    """Measure every point of the chosen axes; print the table, write JSON and a chart."""
    made = parser("growth", __doc__, rounds=1)
    made.add_argument("--steps", type=count, default=30, help="optimizer steps in each timed part (default: 30)")
    made.add_argument("--axes", default=",".join(AXES), help=f"with commas between (default: {','.join(AXES)})")
    options = made.parse_intermixed_args(list(arguments))
    axes = [axis.strip() for axis in options.axes.split(",")]
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise UserError(f"--axes {unknown[0]}: must be of {', '.join(AXES)}")
    points = [(axis, value) for axis in axes for value in AXES[axis]]
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        _Growth(options, points, Path(folder) / "data.pt").run()


class _Growth(Study):
    """A point is an axis and one of its values; a contestant there is named by `_at`."""

    def __init__(self, options: Namespace, points: Sequence[tuple[str, str]], file: Path) -> None:
        groups = [[_at(*point, name) for name in _ALL] for point in points]
        super().__init__(options, groups, {"steps_timed": options.steps})
        self.points, self.file = points, file
        self.places = {_at(*point, name): (point, name) for point in points for name in _ALL}
        self.prepared: tuple[tuple[str, str], list[str]] | None = None

    def measure(self, name: str) -> Row:
        (axis, value), contestant = self.places[name]
        # The contestants of a point come one after the other.
        if self.prepared is None or self.prepared[0] != (axis, value):
            settings = ["data=synthetic", *self.options.overrides, *AXES[axis][value]]
            images = self.options.steps * compose_config(settings)[0].batch_size
            # A tenth is held out for validation.
            settings += [f"data.images={images * 10 // 9 + 20}", f"data.train_size={images}"]
            prepare(compose_config(settings)[0], self.file)
            self.prepared = (axis, value), settings
        return measured("train", [*self.prepared[1], "--data", str(self.file), "--contestant", contestant])

    def ratios(self, axis: str, value: str) -> dict[str, Spread | None]:
        """This harness's speed over the others' at a point, round by round."""
        return {name: self.ratio(_at(axis, value, HARNESS), _at(axis, value, name), SPEED) for name in _OTHERS}

    def record(self) -> dict[str, Any]:
        points = []
        for axis, value in self.points:
            rounds = {name: self.rounds[_at(axis, value, name)] for name in _ALL}
            ratios = {name: ratio and asdict(ratio) for name, ratio in self.ratios(axis, value).items()}
            points.append({"axis": axis, "value": value, "rounds": rounds, "harness_ratio": ratios})
        return {"points": points}

    def table(self) -> Table:
        rows = []
        for point in self.points:
            speed = self.median(_at(*point, HARNESS), SPEED) or "failed"
            rows.append((*point, speed, *(str(ratio or "") for ratio in self.ratios(*point).values())))
        first = self.first()
        title = f"Growth, {first['device']}, {first['precision']}" if first else "Growth"
        return table(title, ["varied", "value"], ["harness, images/s", "over bare step", f"over {PLAIN_LOOP}"], rows)

    def chart(self) -> Figure | None:
        """A panel for each axis; in it a line for each other contestant over the axis's values, and a line at 1."""
        measured_at = [axis for axis, value in self.points if any(self.ratios(axis, value).values())]
        if not (axes := list(dict.fromkeys(measured_at))):
            return None
        figure = Figure(figsize=(4 * len(axes), 4))
        margins(figure, left=0.8, bottom=0.6)
        panes = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
        for pane, axis in zip(panes, axes, strict=True):
            for name, colour, dashes in zip(_OTHERS, COLOURS, DASHES, strict=False):
                points = {value: ratio for value in AXES[axis] if (ratio := self.ratios(axis, value)[name])}
                medians = [ratio.median for ratio in points.values()]
                pane.plot(list(points), medians, marker="o", label=f"over {name}", color=colour, linestyle=dashes)
            pane.axhline(1, color=MARK, linestyle=":", linewidth=1)
            pane.set_ylim(bottom=0)
            pane.set_xlabel(axis)
            pane.grid(alpha=0.3)
        panes[0].set_ylabel("this harness's speed, times the other's")
        panes[0].legend()
        figure.suptitle("Growth", fontsize=10)
        return figure


def _at(axis: str, value: str, contestant: str) -> str:
    return f"{axis} {value}, {contestant}"
