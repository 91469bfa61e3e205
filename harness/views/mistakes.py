"""Pictures of what a trained network gets wrong: the confusion matrix and a grid of its worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from harness.views.style import TEXT, margins, png

_COLUMNS, _ROWS = 8, 4
_NAMED = 30  # classes; names and counts of more would not be readable
_NAME_LENGTH = 14


# Images (count, height, width, channels) uint8 on the CPU, by their positions (count,) int64.
Read = Callable[[Tensor], Tensor]


def picture_tags(
    read: Read, labels: Tensor, predicted: Tensor, losses: Tensor, classes: Sequence[str]
) -> dict[str, bytes]:
    """PNG pictures by TensorBoard tag.

    `labels` and `predicted` (count,) int64 and `losses` (count,) float in nats belong to the images.
    """
    pictures = {"pictures/confusion_matrix": confusion_matrix(labels, predicted, classes)}
    if (mistakes := worst_mistakes(read, labels, predicted, losses, classes)) is not None:
        pictures["pictures/worst_mistakes"] = mistakes
    return pictures


@rc_context(TEXT)
def confusion_matrix(labels: Tensor, predicted: Tensor, classes: Sequence[str]) -> bytes:
    """A PNG of how often each class (row) was taken for which (column).

    Colours are fractions of the row, numbers are counts. `labels` and `predicted` are (count,) int64.
    """
    size = len(classes)
    counts = torch.bincount(labels * size + predicted, minlength=size * size).view(size, size)
    fractions = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(11.0, 3.5 + 0.5 * size)
    figure = Figure(figsize=(side + 1, side))
    names = [_short(name) for name in classes] if size <= _NAMED else []
    room = 0.6 + 0.085 * max([4, *map(len, names)])
    margins(figure, left=room, bottom=room if names and max(map(len, names)) > 3 else 0.6, right=0.1)
    axes = figure.subplots()
    image = axes.imshow(fractions.numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, label="fraction of the true class", shrink=0.8)
    right = int(counts.diagonal().sum())
    axes.set_title(f"test images: {right:,} of {len(labels):,} right")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if names:
        _name_cells(axes, counts, fractions, names)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    return png(figure)


def _name_cells(axes: Axes, counts: Tensor, fractions: Tensor, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    for row, column in counts.nonzero().tolist():
        colour = "white" if fractions[row, column] > 0.5 else "black"
        count = int(counts[row, column])
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)


@rc_context(TEXT)
def worst_mistakes(
    read: Read, labels: Tensor, predicted: Tensor, losses: Tensor, classes: Sequence[str]
) -> bytes | None:
    """A PNG of the wrongly classified images with the highest loss, the worst first; None without a mistake.

    Arguments as of `picture_tags`.
    """
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[losses[wrong].argsort(descending=True, stable=True)][: _COLUMNS * _ROWS]
    if not len(worst):
        return None
    pixels = read(worst).numpy()
    rows = -(-len(worst) // _COLUMNS)
    figure = Figure(figsize=(1.6 * _COLUMNS, 0.5 + 2.1 * rows))
    margins(figure, left=0.1, bottom=0.1, right=0.1)
    axes = figure.subplots()
    # Each image takes the unit square; all of them share one axes, since an axes each takes most of a second.
    for place, index in enumerate(worst.tolist()):
        row, column = divmod(place, _COLUMNS)
        left, top = 1.15 * column, 1.5 * row
        extent = (left, left + 1, top + 1, top)
        axes.imshow(_coloured(pixels[place]), cmap="gray", vmin=0, vmax=255, extent=extent)
        true, taken = (_short(classes[int(label[index])]) for label in (labels, predicted))
        words = f"{taken}\nnot {true}\nloss {float(losses[index]):.3g}"
        axes.text(left + 0.5, top + 1.03, words, ha="center", va="top", fontsize=8)
    axes.set_xlim(-0.05, 1.15 * _COLUMNS)
    axes.set_ylim(1.5 * rows, -0.05)
    axes.set_axis_off()
    axes.set_title(
        f"the {len(worst)} worst of {len(wrong):,} mistakes on {len(labels):,} test images: predicted, not true"
    )
    return png(figure)


def _coloured(image: np.ndarray) -> np.ndarray:
    """(height, width, channels) to what matplotlib draws: colours for three channels, else the first in grey."""
    return image if image.shape[2] == 3 else image[:, :, 0]


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."
