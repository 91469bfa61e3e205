"""What a network says of each image, kept while it is evaluated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Recorder(nn.Module):
    """A network that notes, of each image that passes, the predicted class and the cross-entropy in nats.

    `labels` (count,) int64 are those of all images in the order in which they will pass. What is noted stays on the
    device until it is asked for, so that an evaluation through the recorder takes no longer than one without.
    """

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.network = network
        self._labels = labels
        self._passed = 0
        self._predicted: list[Tensor] = []
        self._losses: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits (batch, classes)."""
        logits: Tensor = self.network(images)
        labels = self._labels[self._passed : self._passed + len(logits)]
        self._passed += len(logits)
        self._predicted.append(logits.argmax(dim=1))
        self._losses.append(F.cross_entropy(logits.float(), labels.to(logits.device), reduction="none"))
        return logits

    @property
    def predicted(self) -> Tensor:
        """Predicted classes (count,) int64, on the CPU."""
        return torch.cat(self._predicted).cpu()

    @property
    def losses(self) -> Tensor:
        """Cross-entropies (count,) float32 in nats, on the CPU."""
        return torch.cat(self._losses).cpu()
