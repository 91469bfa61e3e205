"""One part of a data set, and stratified choices of some of its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """The images at these positions."""
        return Split(self.images[index], self.labels[index])


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
