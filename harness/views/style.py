"""How every picture looks, and how it is written."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.files import write_atomic

# Okabe and Ito's colours, told apart by the colour-blind; the dashes serve readers in greyscale.
TRAIN, VAL, MARK = "#E69F00", "#0072B2", "#999999"
GROUP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":")


def margins(figure: Figure, left: float, bottom: float, top: float = 0.4, right: float = 0.25) -> None:
    """Set the margins in inches. Leaving them to matplotlib's layout engines takes as long as the drawing itself."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, hspace=0.12)


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        UserError: when the file cannot be written.
    """
    write_atomic(path, lambda file: file.write(png(figure)))


def png(figure: Figure) -> bytes:
    """A figure as PNG, 120 pixels to the inch."""
    FigureCanvasAgg(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
