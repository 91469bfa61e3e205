"""The training loop: an epoch as a function of the step, its batches and the scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Batches = Iterable[tuple[Tensor, Tensor]]


class Step(Protocol):
    """One optimizer step on a batch; `network` is what it trains."""

    network: nn.Module

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on images (batch, channels, height, width) and labels (batch,) int64.

        Returns the mean loss (scalar) and the logits (batch, classes) from before the step, both detached; they may be
        overwritten by the next call.
        """
        ...


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats, and the fraction classified right, over all images of a pass."""

    loss: float
    accuracy: float


def train_epoch(step: Step, batches: Batches, scheduler: LRScheduler) -> Score:
    """Train on every batch, then step the scheduler once. Nothing in the loop waits for the device."""
    tally = _Tally()
    step.network.train()
    for images, labels in batches:
        loss, logits = step(images, labels)
        tally.add(loss, logits, labels)
    scheduler.step()
    return tally.score()


class TrainStep:
    """The step as torch's tutorials write it. Autocast and loss scaling pass everything through where not needed."""

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, autocast: torch.autocast
    ) -> None:
        self.network, self.optimizer, self._scaler, self._autocast = network, optimizer, scaler, autocast

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Step`."""
        self.optimizer.zero_grad()
        with self._autocast:
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach(), logits.detach()


def evaluate(model: nn.Module, batches: Batches, autocast: torch.autocast) -> Score:
    """Score the model in evaluation mode."""
    tally = _Tally()
    model.eval()
    with torch.inference_mode(), autocast:
        for images, labels in batches:
            logits = model(images)
            tally.add(F.cross_entropy(logits, labels), logits, labels)
    return tally.score()


class _Tally:
    """Sums over batches, weighted by their sizes; kept on the device and read once."""

    def __init__(self) -> None:
        self.images = 0
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0

    def add(self, mean_loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.images += len(labels)
        self.loss += mean_loss.double() * len(labels)
        self.correct += (logits.argmax(dim=1) == labels).sum()

    def score(self) -> Score:
        return Score(float(self.loss) / self.images, int(self.correct) / self.images)


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
