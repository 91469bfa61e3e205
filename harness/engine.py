"""The training loop: an epoch as a function of model, optimizer, scheduler and batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats, and the fraction classified right, over all images of a pass."""

    loss: float
    accuracy: float


def train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    scaler: torch.amp.GradScaler,
    autocast: torch.autocast,
) -> Score:
    """Train on every batch, then step the scheduler once. Nothing in the loop waits for the device.

    The scaler is torch's loss scaling for fp16; for every other precision it passes loss and step through.
    """
    tally = _Tally()
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        with autocast:
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        tally.add(loss.detach(), logits.detach(), labels)
    scheduler.step()
    return tally.score()


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
