"""The pictures of a report, drawn without pyplot: rates, curves, differences, heat map, budget.

Each is drawn twice, as wide as a page and as a column of a paper. The baseline is drawn in the colour of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.compare.comparison import DRAWN, Comparison
from harness.compare.grid import Grid, find_grid
from harness.compare.metrics import CURVES, LOSS, Curve, Unit
from harness.compare.results import Result, aggregate, decay_factors, rates
from harness.compare.verdicts import Difference
from harness.report.drawing import (
    INK,
    PAGE,
    Drawing,
    Medium,
    add_legend,
    epoch_axis,
    label_text,
    make_drawing,
    new_figure,
)
from harness.views.style import COLOURS, DASHES, MARKERS, ROUND, log_axis

_BANDS = 3  # schedules; the bands of more would cover each other
_ALTERNATIVES = 12  # in the picture of differences


@dataclass(frozen=True)
class _Line:
    """How one schedule is drawn in every picture."""

    result: Result
    label: str
    colour: str
    dashes: Any
    marker: str
    width: float


def _lines(comparison: Comparison, medium: Medium) -> list[_Line]:
    results, lines, other = comparison.leading(DRAWN), [], 0
    for place, result in enumerate(results):
        label = label_text(result.label, medium)
        # Schedules share epochs, so what is drawn later is thinner and leaves the line below visible.
        width = medium.scale * (3.4 - 2.0 * place / max(1, len(results) - 1))
        if result.label == comparison.baseline:
            lines.append(_Line(result, f"{label} (baseline)", INK, "--", "", width))
        else:
            style = other % len(COLOURS)
            lines.append(_Line(result, label, COLOURS[style], DASHES[style], MARKERS[style], width))
            other += 1
    return lines


def _not_drawn(comparison: Comparison) -> str:
    left = len(comparison.results) - len(comparison.leading(DRAWN))
    return f" The {left:,} lower ranked schedules are not drawn." if left else ""


def draw_rates(comparison: Comparison) -> Drawing:
    """Learning rate by epoch; parameter groups that have a rate of their own get a line of their own."""
    caption = f"Learning rate that each epoch was trained with.{_not_drawn(comparison)}"
    return make_drawing("lr", caption, partial(_rates, comparison))


def _rates(comparison: Comparison, medium: Medium) -> Figure:
    figure = new_figure(medium, 3.6)
    axes = figure.add_subplot()
    smallest, largest = np.inf, 0.0
    for line in _lines(comparison, medium):
        plan = rates(line.result.variant)
        epochs = sorted(plan)
        series: dict[tuple[float, ...], list[str]] = {}
        for group in plan[epochs[0]]:
            series.setdefault(tuple(plan[e].get(group, np.nan) for e in epochs), []).append(group)
        style = {"color": line.colour, "linestyle": line.dashes, "linewidth": line.width}
        for number, (values, groups) in enumerate(series.items()):
            label = line.label
            if len(series) > 1:  # groups of one schedule are told apart by their markers
                label += f": {label_text(', '.join(groups), medium)}"
                style["marker"] = MARKERS[number % len(MARKERS)]
            every = max(1, len(epochs) // 10)
            axes.plot(epochs, values, drawstyle="steps-mid", label=label, markevery=every, **style)
            smallest, largest = min(smallest, *values), max(largest, *values)
    if smallest > 0 and largest / smallest > 5:
        log_axis(axes)
    axes.set_ylabel("learning rate")
    epoch_axis(axes)
    add_legend(figure, axes.get_legend_handles_labels()[0], medium)
    return figure


def draw_curves(comparison: Comparison) -> Drawing:
    """Mean curves with the 95 % interval over seeds; a triangle marks each decay."""
    few = len(comparison.leading(DRAWN)) <= _BANDS
    caption = (
        f"Mean over the seeds; the {'band is' if few else 'bars at some epochs are'} the 95 % interval (Student's t). "
        "A triangle marks a decay. The later half of training sets the limits, so that neither the first epochs nor a "
        f"schedule that diverged flatten the rest; loss axes are logarithmic.{_not_drawn(comparison)}"
    )
    return make_drawing("curves", caption, partial(_curves, comparison))


def _curves(comparison: Comparison, medium: Medium) -> Figure:
    figure = new_figure(medium, 7.2)
    lines = _lines(comparison, medium)
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, curve in zip(panels, reversed(CURVES), strict=True):  # what was not trained on comes first
        _fit(axes, np.hstack([_draw_curve(axes, lines, place, curve) for place in range(len(lines))]), curve.unit)
        axes.set_ylabel(f"{curve.title.lower()} ({curve.unit.name})")
    for axes in figure.axes[2:]:
        epoch_axis(axes)
    handles = [_handle(line) for line in lines]
    if any(decay_factors(line.result.variant) for line in lines):
        handles.append(Line2D([], [], color="none", marker="v", markerfacecolor=INK, label="decay"))
    add_legend(figure, handles, medium)
    return figure


def _handle(line: _Line) -> Line2D:
    return Line2D([], [], color=line.colour, linestyle=line.dashes, marker=line.marker, label=line.label)


def _draw_curve(axes: Axes, lines: Sequence[_Line], place: int, curve: Curve) -> np.ndarray:
    """Draw one curve of one schedule and return (4, epochs): the epochs, and the band's low, mean and high as drawn."""
    line = lines[place]
    band = aggregate(line.result.variant.runs, curve.key)
    low, mean, high = _array([band.low, band.mean, band.high]) * curve.unit.scale
    epochs = np.array(band.epochs)
    every = max(1, len(epochs) // 6)
    start = place * every // len(lines)  # each schedule has marks at epochs of its own, as far as there are enough
    style = {"color": line.colour, "linestyle": line.dashes, "linewidth": 0.6 * line.width}
    axes.plot(epochs, mean, marker=line.marker, markevery=(start, every), **style)
    if len(lines) <= _BANDS:
        _band(axes, epochs, low, high, line.colour)
    else:
        marked = slice(start, None, every)
        axes.vlines(epochs[marked], low[marked], high[marked], color=line.colour, linewidth=0.4 * line.width)
    middles = [epoch - 0.5 for epoch in decay_factors(line.result.variant)]
    if middles and band.epochs:
        heights = np.interp(middles, band.epochs, mean)
        axes.plot(middles, heights, "v", color=line.colour, zorder=5, markeredgecolor=INK, markeredgewidth=0.5)
    return np.array([epochs, low, mean, high])


def _band(axes: Axes, x: Sequence[float] | np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    axes.fill_between(x, low, high, facecolor=(colour, 0.13), edgecolor=(colour, 0.5), linewidth=0.5)


def _array(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Rows of numbers, NaN for what does not exist."""
    return np.array(rows, dtype=float)


def _fit(axes: Axes, bands: np.ndarray, unit: Unit) -> None:
    """Let the later half of training set the scale, without what diverged; losses get a logarithmic axis.

    `bands` is (4, points): epochs, and low, mean and high as drawn.
    """
    epochs, lows, means, highs = bands
    far, least = (1.5, 0.1) if unit is LOSS else (50.0, 1.0)
    if unit is LOSS:  # so that more is better, as of an accuracy
        highs, means, lows = -np.log10(np.where(bands[1:] > 0, bands[1:], np.nan))
    late = epochs >= epochs.max(initial=0) / 2
    known = np.sort(means[late][~np.isnan(means[late])])
    if not len(known):
        return
    near = known[np.abs(known - known[len(known) // 2]) <= far]
    low, high = near.min(), near.max()
    span = max(high - low, least)
    # Student's interval over two or three seeds reaches far, and the first epochs are worse.
    high = min(high + span / 2, np.nanmax([high, *highs[late]])) + span / 12
    low = max(low - span / 2, np.nanmin([low, *lows[late]]))
    low = max(low - span, min(low, np.nanmin(means))) - span / 12
    if unit is LOSS:
        axes.set_yscale("log")
        axes.set_ylim(10**-high, 10**-low)
        log_axis(axes)
    else:
        axes.set_ylim(max(low, -0.4), min(high, 100.4))


def draw_differences(comparison: Comparison) -> Drawing | None:
    """A forest plot: each alternative less the baseline in each compared metric, by seed, with mean and interval."""
    if not comparison.differences:
        return None
    more = len({difference.label for difference in comparison.differences}) - _ALTERNATIVES
    left = f" The {more:,} lower ranked alternatives are not drawn." if more > 0 else ""
    caption = (
        f"Alternative less {comparison.baseline}: a dot for each seed, the mean, and the interval that holds for all "
        "pairs of schedules at once. What reaches the edge goes on beyond it; an arrow with a number is a mean that "
        f"lies there.{left}"
    )
    return make_drawing("differences", caption, partial(_differences, comparison))


def _differences(comparison: Comparison, medium: Medium) -> Figure:
    labels = list(dict.fromkeys(difference.label for difference in comparison.differences))[:_ALTERNATIVES]
    names = [fill(label_text(label, medium), medium.label // 2) for label in labels]
    colours = {line.result.label: line.colour for line in _lines(comparison, medium)}
    metrics = list(dict.fromkeys(difference.metric for difference in comparison.differences))
    row = max(2, *(name.count("\n") + 1.5 for name in names)) * medium.line
    figure = Figure(figsize=(medium.width, row * len(labels) + 5 * medium.line), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        shown = {d.label: d for d in comparison.differences if d.metric is metric and d.label in labels}
        low, high = _reach(list(shown.values()))
        for place, label in enumerate(labels):
            _draw_difference(axes, place, shown[label], colours.get(label, INK), (low, high))
        axes.axvline(0, color=INK, linewidth=0.8 * medium.scale, linestyle="--")
        axes.set_xlim(low, high)
        axes.set_yticks(range(len(labels)), names)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6 if medium is PAGE else 3, steps=ROUND))
        better = "better →" if metric.higher_is_better else "← better"
        axes.set_xlabel(f"{metric.short} ({metric.unit.suffix.strip() or metric.unit.name})\n{better}")
    figure.axes[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure


def _reach(differences: Sequence[Difference]) -> tuple[float, float]:
    """Limits that hold 0 and the dots of all alternatives but those ten times as far off as is usual."""
    dots = [np.array(d.paired.differences) * d.metric.unit.scale for d in differences if d.paired.differences]
    reach = [np.abs(each).max() for each in dots]
    near = [each for each, far in zip(dots, reach, strict=True) if far <= 10 * np.median(reach)]
    low, high = (limit(np.hstack([0.0, *near])) for limit in (np.min, np.max))
    room = (high - low or 1.0) / 4
    return low - room, high + room


def _draw_difference(axes: Axes, place: int, difference: Difference, colour: str, limits: tuple[float, float]) -> None:
    pair, scale = difference.paired, difference.metric.unit.scale
    dots = np.array(pair.differences) * scale
    axes.plot(dots, np.full(len(dots), place - 0.17), "o", color=colour, alpha=0.5, markeredgewidth=0)
    low, mean, high = _array([[difference.low, pair.estimate.mean, difference.high]])[0] * scale
    axes.plot([low, high], [place + 0.17] * 2, color=colour)
    axes.plot(mean, place + 0.17, "D", color=colour)
    if mean < limits[0]:
        axes.text(limits[0], place, f" ◀ {mean:.3g}", ha="left", va="center", color=colour)
    elif mean > limits[1]:
        axes.text(limits[1], place, f"{mean:.3g} ▶ ", ha="right", va="center", color=colour)


def draw_budget(comparison: Comparison) -> Drawing | None:
    """Mean final validation accuracy by number of epochs, a line and band for each schedule."""
    if not comparison.budget:
        return None
    caption = (
        "Final validation accuracy by total number of epochs, each run with its own decays: mean over the seeds, and "
        "95 % interval."
    )
    return make_drawing("budget", caption, partial(_budget, comparison))


def _budget(comparison: Comparison, medium: Medium) -> Figure:
    figure = new_figure(medium, 4.2)
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(point.label for point in comparison.budget))
    for number, label in enumerate(labels[: len(COLOURS)]):
        estimates = {point.epochs: point.final_val_accuracy for point in comparison.budget if point.label == label}
        epochs = list(estimates)
        low, mean, high = _array([(e.low, e.mean, e.high) for e in estimates.values()]).T * 100
        colour, marker, dashes = COLOURS[number], MARKERS[number], DASHES[number]
        axes.plot(epochs, mean, color=colour, linestyle=dashes, marker=marker, label=label_text(label, medium))
        _band(axes, epochs, low, high, colour)
    axes.set_ylim(top=min(100.4, axes.get_ylim()[1]))
    axes.set_ylabel("final validation accuracy (%)")
    epoch_axis(axes, "epochs in all")
    add_legend(figure, axes.get_legend_handles_labels()[0], medium)
    return figure


def draw_heat_map(comparison: Comparison) -> Drawing | None:
    """Mean late validation accuracy over two settings; the best cell has a frame, cells without runs are empty."""
    grid = find_grid(comparison.results)
    if grid is None:
        return None
    caption = (
        f"{grid.schedule}: mean late validation accuracy by {grid.row_name} and {grid.column_name}. The "
        "frame marks the best cell; the best of many is partly luck."
    )
    return make_drawing("heatmap", caption, partial(_heat_map, grid))


def _heat_map(grid: Grid, medium: Medium) -> Figure:
    columns, rows = len(grid.columns), len(grid.rows)
    around = 3.2 * medium.scale  # what colour bar and labels take
    width = min(16.0, max(5.0, around + 0.95 * columns)) if medium is PAGE else medium.width
    height = min(14.0, max(2.9, 1.9 + 0.5 * rows)) * medium.scale
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    values = _array(grid.means) * 100
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.set_xticks(range(columns), [label_text(text, medium) for text in grid.columns])
    axes.set_yticks(range(rows), [label_text(text, medium) for text in grid.rows])
    axes.set_xlabel(label_text(grid.column_name, medium))
    axes.set_ylabel(label_text(grid.row_name, medium))
    axes.set_title(label_text(grid.schedule, medium))
    axes.grid(visible=False)
    fitting = (width - around) / columns / medium.width * medium.letters  # characters that a cell is wide
    if max(map(len, grid.columns)) > fitting:
        axes.tick_params(axis="x", rotation=30)
    figure.colorbar(image, ax=axes, label="late validation accuracy (%)").outline.set_visible(False)
    if rows * columns <= 200 and fitting >= 5:
        _write_cells(axes, values)
    best = np.unravel_index(int(np.nanargmax(values)), values.shape)
    corner = (best[1] - 0.5, best[0] - 0.5)
    width = 3 * medium.scale
    axes.add_patch(mpl.patches.Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=width))
    return figure


def _write_cells(axes: Axes, values: np.ndarray) -> None:
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)


# The pictures of a report in their order; a function gives None where there is nothing to show.
PICTURES: Mapping[str, Callable[[Comparison], Drawing | None]] = {
    "lr.png": draw_rates,
    "curves.png": draw_curves,
    "differences.png": draw_differences,
    "heatmap.png": draw_heat_map,
    "budget.png": draw_budget,
}
