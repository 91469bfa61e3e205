"""Random crops and flips of whole batches, on the device that holds the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def windows(images: Tensor, padding: int) -> Tensor:
    """Every crop of the zero-padded images as a view: (count, shifts, shifts, channels, height, width).

    `images` is (count, channels, height, width); `shifts` is 2 * padding + 1, and [i, padding, padding] is image i.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4) if padding else images
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)


@dataclass(frozen=True)
class EpochAugmentation:
    """The choices for every image of one epoch, in the order of the shuffled epoch.

    `rows` and `columns` (count,) int64 are crop offsets in pixels; `flips` (count,) bool, or None without flips.
    """

    rows: Tensor
    columns: Tensor
    flips: Tensor | None

    @staticmethod
    def draw(count: int, padding: int, flip: bool, rng: torch.Generator) -> EpochAugmentation:
        """Draw the choices of one epoch at once."""
        rows, columns = torch.randint(0, 2 * padding + 1, (2, count), generator=rng)
        flips = torch.rand(count, generator=rng) < 0.5 if flip else None
        return EpochAugmentation(rows, columns, flips)

    def to(self, device: torch.device) -> EpochAugmentation:
        """The same choices on another device."""
        flips = None if self.flips is None else self.flips.to(device)
        return EpochAugmentation(self.rows.to(device), self.columns.to(device), flips)

    def apply(self, crops: Tensor, index: Tensor, chosen: slice) -> Tensor:
        """A batch (batch, channels, height, width) of the images `index`, at the positions `chosen` of the epoch."""
        batch = crops[index, self.rows[chosen], self.columns[chosen]]
        if self.flips is None:
            return batch
        return torch.where(self.flips[chosen].view(-1, 1, 1, 1), batch.flip(-1), batch)
