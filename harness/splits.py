"""One part of a data set, and stratified choices of some of its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.image_files import ImageFiles


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set, on the CPU.

    Images are in memory, (count, channels, height, width) uint8, or files that are decoded when they are needed; both
    have `len`, `shape`, and give the image (channels, height, width) at a position. Labels are (count,) int64.
    """

    images: Tensor | ImageFiles
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """The images at these positions: a boolean mask (count,), or int64."""
        index = index.nonzero().flatten() if index.dtype == torch.bool else index
        if isinstance(self.images, ImageFiles):
            return Split(self.images.take(index), self.labels[index])
        # Whole images are copied, which is faster than indexing, which goes pixel by pixel.
        chosen = pixels_last(self.images).index_select(0, index)
        return Split(chosen.permute(0, 3, 1, 2), self.labels[index])

    def in_memory(self) -> Split:
        """The same part with its images decoded.

        Raises:
            UserError: naming a file that is gone, changed or damaged.
        """
        return Split(self.images.decoded(), self.labels) if isinstance(self.images, ImageFiles) else self


def pixels_last(images: Tensor) -> Tensor:
    """Images (count, channels, height, width) as (count, height, width, channels), contiguous.

    This is how images from all sources lie in memory, so that a row of an image is one piece whatever its channels;
    other images are copied.
    """
    return images.permute(0, 2, 3, 1).contiguous()


def stratified(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """A boolean mask (n,) that picks `count` of n images, each class in proportion (largest remainder method).

    Written out here, not taken from a library, so that no new version of one ever changes a split.
    """
    exact = torch.bincount(labels).double() * count / len(labels)
    quota = exact.floor().long()
    left = count - int(quota.sum())
    quota[torch.argsort(quota - exact, stable=True)[:left]] += 1
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label, wanted in enumerate(quota.tolist()):
        members = torch.nonzero(labels == label).flatten()
        mask[members[torch.randperm(len(members), generator=rng)[:wanted]]] = True
    return mask
