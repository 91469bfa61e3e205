"""What is computed from all images of a data set before training: its fingerprint and its normalisation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.image_files import ImageFiles
from harness.prefetch import read_ahead
from harness.splits import Split, pixels_last

# Up to 257 squares of a byte add up in float32 without rounding, in whatever order they are added.
_CHUNK_IMAGES = 256
_CHUNK_BYTES = 16_000_000


@dataclass(frozen=True)
class Findings:
    """The SHA-256 over all parts; mean and standard deviation of training pixels (0 to 255) by channel."""

    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def examine(train: Split, val: Split, test: Split) -> Findings:
    """Go through all images once. The findings are the same wherever the images lie.

    Raises:
        UserError: naming a file that is gone, changed or damaged.
    """
    digest, sums = hashlib.sha256(), _PixelSums()
    for part in (train, val, test):
        digest.update(repr((len(part), *part.images.shape[1:])).encode())
        with closing(_chunks(part)) as chunks:
            for chunk in chunks:
                digest.update(chunk.numpy().data)
                if part is train:
                    sums.add(chunk)
        digest.update(part.labels.contiguous().numpy().data)
    return Findings(digest.hexdigest(), *sums.mean_and_std())


def _chunks(part: Split) -> Generator[Tensor]:
    images = part.images
    _, channels, height, width = images.shape
    size = min(_CHUNK_IMAGES, max(1, _CHUNK_BYTES // (channels * height * width)))
    if not isinstance(images, ImageFiles):
        yield from pixels_last(images).split(size)
        return
    with closing(read_ahead(images, torch.arange(len(part)).split(size), size, pinned=False)) as buffers:
        for buffer in buffers:
            yield buffer.images


class _PixelSums:
    """Exact sums of pixels and of their squares, for each place of an image."""

    def __init__(self) -> None:
        self._images = 0
        self._sum: Tensor | int = 0
        self._squares: Tensor | int = 0

    def add(self, images: Tensor) -> None:
        """Count in (at most 256, height, width, channels) uint8."""
        floats = images.float()
        self._images += len(images)
        self._sum = floats.sum(0).long() + self._sum
        self._squares = floats.square_().sum(0).long() + self._squares

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """By channel, in whole numbers up to one division, so that they do not depend on any order of summing."""
        assert isinstance(self._sum, Tensor)
        assert isinstance(self._squares, Tensor)
        height, width, _ = self._sum.shape
        count = self._images * height * width
        sums, squares = (total.sum((0, 1)).tolist() for total in (self._sum, self._squares))
        mean = tuple(s / count for s in sums)
        # Images that are all of one colour would be divided by zero.
        std = tuple(max(1e-3, math.sqrt((count * q - s * s) / count**2)) for s, q in zip(sums, squares, strict=True))
        return mean, std
