"""The training loop: an epoch as a function of the step, its batches and the scheduler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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

    def close(self) -> None:
        """Give back what the step holds besides its network; it is not called again."""
        ...


# What training makes small, from logits (batch, classes) and the loader's targets, called as torch's own losses are: it
# gives the mean over the batch (scalar), and with `reduction="none"` the value of each image (batch,).
Objective = Callable[..., Tensor]


@dataclass(frozen=True)
class Score:
    """Mean loss in nats, and the fraction classified right, over all images of a pass.

    `lost_at` is the first batch, from 0, whose loss is no finite number.
    """

    loss: float
    accuracy: float
    lost_at: int | None


def train_epoch(step: Step, batches: Batches, scheduler: LRScheduler) -> Tally:
    """Train on every batch, then step the scheduler once. Nothing here waits for the device."""
    tally = Tally()
    step.network.train()
    for images, labels in batches:
        loss, logits = step(images, labels)
        tally.add(loss, logits, labels)
    scheduler.step()
    return tally


class TrainStep:
    """The step as torch's tutorials write it. Autocast and loss scaling pass everything through where not needed."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        autocast: torch.autocast,
        objective: Objective = F.cross_entropy,
    ) -> None:
        self.network, self.optimizer, self._scaler, self._autocast = network, optimizer, scaler, autocast
        self._objective = objective

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Step`."""
        self.optimizer.zero_grad()
        with self._autocast:
            logits = self.network(images)
            loss = self._objective(logits, labels)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach(), logits.detach()

    def close(self) -> None:
        """As `Step`."""


def evaluate(
    model: nn.Module,
    batches: Batches,
    autocast: torch.autocast,
    objective: Objective = F.cross_entropy,
    predictions: Predictions | None = None,
) -> Tally:
    """Score the model in evaluation mode, and note what it says of each image where that is wanted.

    Nothing here waits for the device.
    """
    tally = Tally()
    model.eval()
    with torch.inference_mode(), autocast:
        for images, labels in batches:
            logits = model(images)
            tally.add(objective(logits, labels), logits, labels)
            if predictions is not None:
                predictions.note(logits, labels)
    return tally


class Tally:
    """Sums over batches, weighted by their sizes; kept on the device until `read`."""

    def __init__(self) -> None:
        self.images = 0
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self._losses: list[Tensor] = []

    def add(self, mean_loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch."""
        self.images += len(labels)
        self._losses.append(mean_loss.double() * len(labels))
        self.loss += self._losses[-1]
        self.correct += (logits.argmax(dim=1) == labels).sum()

    def score(self) -> Score:
        """As `read`."""
        return read(self)[0]

    def lost_at(self) -> int | None:
        """The first batch, from 0, whose loss is no finite number."""
        lost = torch.stack(self._losses).isfinite().logical_not().nonzero()
        return int(lost[0]) if len(lost) else None  # the sum alone may be too large


def read(*tallies: Tally) -> list[Score]:
    """What was tallied; the device is waited for once."""
    sums = [torch.as_tensor(each).double() for tally in tallies for each in (tally.loss, tally.correct)]
    values = torch.stack(sums).tolist()
    scores = []
    for tally, loss, correct in zip(tallies, values[::2], values[1::2], strict=True):
        mean = loss / tally.images
        scores.append(Score(mean, correct / tally.images, None if math.isfinite(mean) else tally.lost_at()))
    return scores


class Predictions:
    """What a network says of each image, noted while it is evaluated.

    It stays on the device until it is asked for, so that an evaluation takes no longer with it than without.
    """

    def __init__(self, objective: Objective = F.cross_entropy) -> None:
        self._objective = objective
        self._predicted: list[Tensor] = []
        self._losses: list[Tensor] = []

    def note(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        self._predicted.append(logits.argmax(dim=1))
        self._losses.append(self._objective(logits.float(), targets, reduction="none"))

    @property
    def predicted(self) -> Tensor:
        """Predicted classes (count,) int64, on the CPU."""
        return torch.cat(self._predicted).cpu()

    @property
    def losses(self) -> Tensor:
        """Losses (count,) float32 in nats, on the CPU."""
        return torch.cat(self._losses).cpu()
