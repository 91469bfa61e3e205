"""How every picture looks, and how it is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.files import write_atomic

# Okabe and Ito's colours (2008, Color Universal Design), told apart by the colour-blind; dashes and markers serve
# readers in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "P", "X")
TRAIN, VAL, MARK = COLOURS[4], COLOURS[0], "#999999"


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
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, metadata={"Software": None})
    return picture.getvalue()
