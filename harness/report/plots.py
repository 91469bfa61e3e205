"""The pictures of a report, as PNG and SVG, drawn without pyplot: rates, curves with bands, heat map, budget.

The baseline is drawn in the colour of the text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.compare.comparison import DRAWN, Comparison
from harness.compare.grid import find_grid
from harness.compare.metrics import ACCURACY, CURVES, Curve, Unit
from harness.compare.results import Result, aggregate, decay_factors, rates
from harness.views.style import COLOURS, DASHES, MARKERS, png

INK = "#1b1f25"  # replaced by the page's text colour in SVG, so it must be a colour of its own
_LABEL_LENGTH = 90
_STYLE: Any = {  # matplotlib's stubs name every key, differently in each release
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "grid.alpha": 0.16,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
}


@dataclass(frozen=True)
class Drawing:
    """One picture: PNG on white for files, SVG on nothing for pages (it takes the page's text colour)."""

    caption: str
    png: bytes
    svg: str


@dataclass(frozen=True)
class _Line:
    """How one schedule is drawn in every picture."""

    result: Result
    label: str
    colour: str
    dashes: Any
    marker: str
    width: float


def _lines(comparison: Comparison) -> list[_Line]:
    results, lines, other = comparison.leading(DRAWN), [], 0
    for place, result in enumerate(results):
        label = _label(result.label)
        # Schedules share epochs, so what is drawn later is thinner and leaves the line below visible.
        width = 3.4 - 2.0 * place / max(1, len(results) - 1)
        if result.label == comparison.baseline:
            lines.append(_Line(result, f"{label} (baseline)", INK, "--", "", width))
        else:
            style = other % len(COLOURS)
            lines.append(_Line(result, label, COLOURS[style], DASHES[style], MARKERS[style], width))
            other += 1
    return lines


def _label(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar would start a formula, a leading underscore hides an entry."""
    # Schedules are often told apart by the end of their label, so the middle goes.
    half = (_LABEL_LENGTH - 3) // 2
    short = text if len(text) <= _LABEL_LENGTH else f"{text[:half]}...{text[-half:]}"
    return short.replace("$", r"\$").replace("_", " _", 1 if short.startswith("_") else 0)


def _not_drawn(comparison: Comparison) -> str:
    left = len(comparison.results) - len(comparison.leading(DRAWN))
    return f" The {left:,} lower ranked schedules are not drawn." if left else ""


def draw_rates(comparison: Comparison) -> Drawing:
    """Learning rate by epoch; parameter groups that have a rate of their own get a line of their own."""
    caption = f"Learning rate that each epoch was trained with.{_not_drawn(comparison)}"
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 3.6), layout="constrained")
        axes = figure.add_subplot()
        smallest, largest = np.inf, 0.0
        for line in _lines(comparison):
            plan = rates(line.result.variant)
            epochs = sorted(plan)
            series: dict[tuple[float, ...], list[str]] = {}
            for group in plan[epochs[0]]:
                series.setdefault(tuple(plan[e].get(group, np.nan) for e in epochs), []).append(group)
            style = {"color": line.colour, "linestyle": line.dashes, "linewidth": line.width}
            for number, (values, groups) in enumerate(series.items()):
                label = line.label
                if len(series) > 1:  # groups of one schedule are told apart by their markers
                    label += f": {_label(', '.join(groups))}"
                    style["marker"] = MARKERS[number % len(MARKERS)]
                every = max(1, len(epochs) // 10)
                axes.plot(epochs, values, drawstyle="steps-mid", label=label, markersize=7, markevery=every, **style)
                smallest, largest = min(smallest, *values), max(largest, *values)
        if smallest > 0 and largest / smallest > 5:
            axes.set_yscale("log")
        axes.set_title("Learning rate of each epoch")
        _epoch_axis(axes)
        _legend(figure, axes.get_legend_handles_labels()[0])
        return _drawing(figure, "lr", caption)


def draw_curves(comparison: Comparison) -> Drawing:
    """Mean curves with the 95 % interval over seeds; a triangle marks each decay."""
    caption = (
        "Mean over the seeds; the band is the 95 % interval (Student's t). A triangle marks a decay. Where "
        f"the first epochs would flatten the rest, they are cut off.{_not_drawn(comparison)}"
    )
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 7.2), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True).flat
        lines = _lines(comparison)
        for axes, curve in zip(panels, reversed(CURVES), strict=True):  # what was not trained on comes first
            _fit(axes, np.hstack([_draw_band(axes, line, curve) for line in lines]), curve.unit)
            axes.set_title(f"{curve.title}, {curve.unit.name}")
        for axes in figure.axes[2:]:
            _epoch_axis(axes)
        handles = [_handle(line) for line in lines]
        if any(decay_factors(line.result.variant) for line in lines):
            handles.append(Line2D([], [], color="none", marker="v", markersize=7, markerfacecolor=INK, label="decay"))
        _legend(figure, handles)
        return _drawing(figure, "curves", caption)


def _handle(line: _Line) -> Line2D:
    style = {"color": line.colour, "linestyle": line.dashes, "marker": line.marker}
    return Line2D([], [], markersize=4.5, linewidth=2, label=line.label, **style)


def _draw_band(axes: Axes, line: _Line, curve: Curve) -> np.ndarray:
    """Draw one curve of one schedule and return (4, epochs): the epochs, and the band's low, mean and high as drawn."""
    band = aggregate(line.result.variant.runs, curve.key)
    low, mean, high = _array([band.low, band.mean, band.high]) * curve.unit.scale
    every = max(1, len(band.epochs) // 8)
    style = {"color": line.colour, "linestyle": line.dashes, "linewidth": max(1.3, line.width * 0.6)}
    axes.plot(band.epochs, mean, marker=line.marker, markersize=4, markevery=(every // 2, every), **style)
    axes.fill_between(band.epochs, low, high, color=line.colour, alpha=0.16, linewidth=0)
    middles = [epoch - 0.5 for epoch in decay_factors(line.result.variant)]
    if middles and band.epochs:
        heights = np.interp(middles, band.epochs, mean)
        edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.7}
        axes.plot(middles, heights, "v", markersize=8, color=line.colour, zorder=5, **edge)
    return np.array([band.epochs, low, mean, high])


def _array(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Rows of numbers, NaN for what does not exist."""
    return np.array(rows, dtype=float)


def _fit(axes: Axes, bands: np.ndarray, unit: Unit) -> None:
    """Let the later half of training set the scale where the first epochs would flatten all that follows."""
    epochs, lows, means, highs = bands
    if not len(epochs):
        return
    lows, highs = np.fmin(lows, means), np.fmax(highs, means)  # the mean where there is no interval
    late = epochs >= epochs.max() / 2
    low, high, late_low, late_high = lows.min(), highs.max(), lows[late].min(), highs[late].max()
    room = 1.5 * (late_high - late_low)
    if high - low > 3 * (late_high - late_low) > 0:
        if unit is ACCURACY:
            axes.set_ylim(max(low, late_low - room), min(100.4, late_high + room / 12))
        else:
            axes.set_ylim(max(0.0, late_low - room / 12), min(high, late_high + room))
    # Student's interval over two or three seeds reaches far beyond what an accuracy or a loss can be.
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -0.4 if unit is ACCURACY else 0.0), min(top, 100.4) if unit is ACCURACY else top)


def _epoch_axis(axes: Axes, label: str = "epoch") -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(4, len(handles), 110 // (longest + 8)))
    # The figure grows with a legend of many rows, which would else leave nothing for the axes.
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * max(0, ceil(len(handles) / columns) - 2))
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, handlelength=3.4)


def draw_budget(comparison: Comparison) -> Drawing | None:
    """Mean final validation accuracy by number of epochs, a line and band for each schedule."""
    points = comparison.budget
    if not points:
        return None
    caption = (
        "Final validation accuracy by total number of epochs, each run with its own decays: mean over the seeds, and "
        "95 % interval."
    )
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 4.2), layout="constrained")
        axes = figure.add_subplot()
        labels = list(dict.fromkeys(point.label for point in points))
        for number, label in enumerate(labels[: len(COLOURS)]):
            estimates = {point.epochs: point.final_val_accuracy for point in points if point.label == label}
            epochs = list(estimates)
            low, mean, high = _array([(e.low, e.mean, e.high) for e in estimates.values()]).T * 100
            colour, marker, dashes = COLOURS[number], MARKERS[number], DASHES[number]
            axes.plot(epochs, mean, color=colour, linestyle=dashes, marker=marker, label=_label(label))
            axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.set_ylim(top=min(100.4, axes.get_ylim()[1]))
        axes.set_title("Final validation accuracy by total number of epochs, %")
        _epoch_axis(axes, "epochs in all")
        _legend(figure, axes.get_legend_handles_labels()[0])
        return _drawing(figure, "budget", caption)


def draw_heat_map(comparison: Comparison) -> Drawing | None:
    """Mean final validation accuracy over two settings; the best cell has a frame, cells without runs are empty."""
    grid = find_grid(comparison.results)
    if grid is None:
        return None
    caption = (
        f"{grid.schedule}: mean final validation accuracy by {grid.row_name} and {grid.column_name}. The "
        "frame marks the best cell; the best of many is partly luck."
    )
    with mpl.rc_context(_STYLE):
        columns, rows = len(grid.columns), len(grid.rows)
        width, height = min(16.0, 3.2 + 0.95 * columns), min(14.0, 1.9 + 0.5 * rows)
        figure = Figure(figsize=(max(width, 5.0), max(height, 2.9)), layout="constrained")
        axes = figure.add_subplot()
        values = _array(grid.means) * 100
        image = axes.imshow(values, cmap="cividis", aspect="auto")
        axes.set_xticks(range(columns), [_label(text) for text in grid.columns])
        axes.set_yticks(range(rows), [_label(text) for text in grid.rows])
        axes.set_xlabel(_label(grid.column_name))
        axes.set_ylabel(_label(grid.row_name))
        axes.set_title(f"{_label(grid.schedule)}: mean final validation accuracy, %")
        axes.grid(visible=False)
        if max(map(len, grid.columns)) > 9:
            axes.tick_params(axis="x", rotation=30)
        figure.colorbar(image, ax=axes).outline.set_visible(False)
        if rows * columns <= 200:
            _write_cells(axes, values)
        best = np.unravel_index(int(np.nanargmax(values)), values.shape)
        corner = (best[1] - 0.5, best[0] - 0.5)
        axes.add_patch(mpl.patches.Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=3))
        return _drawing(figure, "heatmap", caption)


def _write_cells(axes: Axes, values: np.ndarray) -> None:
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)


def _drawing(figure: Figure, name: str, caption: str) -> Drawing:
    picture, svg = png(figure, dpi=150), io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", facecolor="none", metadata={"Date": None})
    text = svg.getvalue().replace(INK, "currentColor")
    # Several drawings share a page, so their internal names must differ.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return Drawing(caption, picture, text)


# The pictures of a report in their order; a function gives None where there is nothing to show.
PICTURES: Mapping[str, Callable[[Comparison], Drawing | None]] = {
    "lr.png": draw_rates,
    "curves.png": draw_curves,
    "heatmap.png": draw_heat_map,
    "budget.png": draw_budget,
}
