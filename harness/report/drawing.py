"""How a picture of a report is laid out and written: for a page, and for the column of a paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.views.style import TEXT, png, rendered

INK = "#1b1f25"  # replaced by the page's text colour in SVG, so it must be a colour of its own
_STYLE: Any = {  # matplotlib's stubs name every key, differently in each release
    **TEXT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "grid.alpha": 0.16,
    "legend.frameon": False,
    "svg.fonttype": "none",  # a browser finds fonts for names that the fonts here cannot write
    "pdf.fonttype": 42,  # publishers refuse matplotlib's own kind
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
}


@dataclass(frozen=True)
class Medium:
    """What is drawn for: width in inches, size of the text in points, `scale` of lines, characters of a label."""

    width: float
    text: float
    scale: float
    label: int

    @property
    def line(self) -> float:
        """Height of a line of text in inches."""
        return 1.5 * self.text / 72

    @property
    def letters(self) -> int:
        """How many letters a line of text has room for."""
        return int(self.width * 72 / (0.6 * self.text))


PAGE, COLUMN = Medium(9.5, 9.5, 1.0, 90), Medium(3.3, 7.0, 0.6, 40)


def _style(medium: Medium, salt: str) -> Any:
    sizes = {"axes.linewidth": 0.8, "grid.linewidth": 0.6, "lines.linewidth": 1.5, "lines.markersize": 5}
    for axis in ("xtick", "ytick"):
        sizes |= {f"{axis}.major.size": 3.5, f"{axis}.major.width": 0.8, f"{axis}.minor.size": 2.0}
    scaled = {name: size * medium.scale for name, size in sizes.items()}
    return {**_STYLE, **scaled, "font.size": medium.text, "axes.titlesize": medium.text, "svg.hashsalt": salt}


@dataclass(frozen=True)
class Drawing:
    """One picture: PNG on white, SVG on nothing for pages (it takes the page's text colour), both for papers."""

    caption: str
    png: bytes
    svg: str
    paper: Mapping[str, bytes]  # by the end of the file's name


def label_text(text: str, medium: Medium) -> str:
    """A name as short as the medium wants it; a leading underscore would hide it from a legend."""
    # Schedules are often told apart by the end of their label, so the middle goes.
    half = (medium.label - 3) // 2
    short = text if len(text) <= medium.label else f"{text[:half]}...{text[-half:]}"
    return f" {short}" if short.startswith("_") else short


def epoch_axis(axes: Axes, label: str = "epoch") -> None:
    """Label the x axis and give it whole numbers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def new_figure(medium: Medium, height: float) -> Figure:
    """A figure as wide as the medium; `height` is that on a page in inches."""
    return Figure(figsize=(medium.width, height * medium.scale), layout="constrained")


def add_legend(figure: Figure, handles: Sequence[Any], medium: Medium) -> None:
    """Put a legend above the axes, in as many columns as there is room for."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(4, len(handles), medium.letters // (longest + 8)))
    # The figure grows with a legend of many rows, which would else leave nothing for the axes.
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + medium.line * max(0, ceil(len(handles) / columns) - 2))
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, handlelength=2.6, columnspacing=1.2)


def make_drawing(name: str, caption: str, draw: Callable[[Medium], Figure]) -> Drawing:
    """What `draw` draws for each medium, as files; the same figure gives the same bytes."""
    dateless: dict[str, Any] = {"format": "svg", "metadata": {"Date": None}}
    with mpl.rc_context(_style(PAGE, name)):
        figure = draw(PAGE)
        picture, svg = png(figure, dpi=150), rendered(figure, facecolor="none", **dateless).decode()
    with mpl.rc_context(_style(COLUMN, name)):
        figure = draw(COLUMN)
        pdf = rendered(figure, format="pdf", metadata={"CreationDate": None})
        paper = {".svg": rendered(figure, **dateless), ".pdf": pdf}
    # Several drawings share a page, so their internal names must differ.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg.replace(INK, "currentColor"))
    return Drawing(caption, picture, text, paper)
