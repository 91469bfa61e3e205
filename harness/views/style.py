"""How every picture looks, and how it is written."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harness.files import write_atomic

# Okabe and Ito's colours (2008, Color Universal Design), told apart by the colour-blind; dashes and markers serve
# readers in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "P", "X")
ROUND = (1, 2, 5, 10)  # steps between the numbers of an axis
TRAIN, VAL, MARK = COLOURS[4], COLOURS[0], "#999999"

# Names need not be Latin: these fonts fill in, as far as they are installed, what matplotlib's own lacks.
_FALLBACKS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "IPAexGothic", "Hiragino Sans", "Yu Gothic", "MS Gothic",
    "Microsoft YaHei", "PingFang SC", "WenQuanYi Zen Hei", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai",
    "Arial Unicode MS",
)  # fmt: skip
_INSTALLED = {font.name for font in fontManager.ttflist}
TEXT: Any = {
    "font.family": ["sans-serif", *(name for name in _FALLBACKS if name in _INSTALLED)],
    "text.parse_math": False,  # a dollar in a name starts no formula
}


def log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, in its present limits, with a few plain numbers that do not lie over each other."""
    axes.set_yscale("log")
    axis, (low, high) = axes.yaxis, axes.get_ylim()
    decades = np.log10(high / low)
    if decades < 0.7:  # a narrow range has no powers of ten to show
        axis.set_major_locator(MaxNLocator(5, steps=ROUND))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def margins(figure: Figure, left: float, bottom: float, top: float = 0.4, right: float = 0.25) -> None:
    """Set the margins in inches. Leaving them to matplotlib's layout engines takes as long as the drawing itself."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, hspace=0.12)


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG; raises as `files.write_atomic`."""
    write_atomic(path, png(figure))


def png(figure: Figure, dpi: int = 120) -> bytes:
    """A figure as PNG, `dpi` pixels to the inch."""
    FigureCanvasAgg(figure)
    return rendered(figure, format="png", dpi=dpi, metadata={"Software": None})


def rendered(figure: Figure, **options: Any) -> bytes:
    """A figure as a file's content; `options` are those of `Figure.savefig`."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that no font has is drawn as a box, which says enough.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(content, **options)
    return content.getvalue()
