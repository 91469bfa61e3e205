"""Charts of measured speeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from harness.benchmarks.ratios import Spread
from harness.views.style import COLOURS, DASHES, MARK, margins, save

_OWN, _OTHER = COLOURS[0], COLOURS[4]


def plot_bars(path: Path, title: str, label: str, bars: Mapping[str, Spread], highlighted: Sequence[str]) -> None:
    """A bar for each name with its spread over rounds as a whisker, and a line at 1.

    Raises:
        UserError: when the file cannot be written.
    """
    figure = Figure(figsize=(8, 1.1 + 0.42 * len(bars)))
    margins(figure, left=2.9, bottom=0.6, right=0.6)
    axes = figure.subplots()
    names = list(bars)[::-1]
    medians = [bars[name].median for name in names]
    below = [bars[name].median - bars[name].min for name in names]
    above = [bars[name].max - bars[name].median for name in names]
    colours = [_OWN if name in highlighted else _OTHER for name in names]
    axes.barh(names, medians, xerr=(below, above), color=colours, error_kw={"capsize": 3, "linewidth": 1})
    axes.axvline(1, color=MARK, linestyle=":", linewidth=1)
    widest = max(bar.max for bar in bars.values())
    for position, name in enumerate(names):
        axes.text(bars[name].max + 0.01 * widest, position, f"{bars[name].median:.2f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.1 * widest)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    save(path, figure)


def plot_lines(path: Path, title: str, label: str, panels: Mapping[str, Mapping[str, Mapping[str, Spread]]]) -> None:
    """A panel for each quantity varied; in it a line for each name over the quantity's values, and a line at 1.

    `panels[quantity][name][value]` is a ratio.

    Raises:
        UserError: when the file cannot be written.
    """
    figure = Figure(figsize=(4 * len(panels), 4))
    margins(figure, left=0.8, bottom=0.6)
    panes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (quantity, lines) in zip(panes, panels.items(), strict=True):
        for index, (name, points) in enumerate(lines.items()):
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
            axes.plot(list(points), [point.median for point in points.values()], marker="o", label=name, **style)
        axes.axhline(1, color=MARK, linestyle=":", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(quantity)
        axes.grid(alpha=0.3)
    panes[0].set_ylabel(label)
    panes[0].legend()
    figure.suptitle(title, fontsize=10)
    save(path, figure)
