"""What learns: network, optimizer, schedule and gradient scaler, built in one order and moved on by whole epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.config import Config
from harness.machine import keep_freed_memory
from harness.seeding import seed_global
from harness.training.devices import Compute
from harness.training.loop import Batches, Tally, evaluate, train_epoch
from harness.training.optim import build_optimizer
from harness.training.schedule import build_scheduler, step
from harness.training.state import Aside, restore
from harness.training.steps import build_step


class Learner:
    """The state, live: `state[e + 1] = train_epoch(state[e], lr[e], seed, e)` is `epoch(e, batches)`.

    `network` builds the network on the CPU; batches hold `batch_size` images and, at the end of an epoch, fewer.

    Raises:
        UserError: for settings that network, optimizer, schedule or step refuse.
    """

    def __init__(self, config: Config, compute: Compute, network: Callable[[], nn.Module], batch_size: int) -> None:
        keep_freed_memory()
        self.compute, self.epochs, self._seed = compute, 0, config.seed
        self._copies = torch.cuda.Stream(compute.device) if compute.device.type == "cuda" else None
        self.model = initial_network(config, compute, network, torch.channels_last)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.scheduler = build_scheduler(config.scheduler, self.optimizer)
        self._scaler = compute.scaler()
        self.step = build_step(config, compute, self.model, self.optimizer, self._scaler, batch_size)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate that the next epoch is trained with, by parameter group."""
        return {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}

    def epoch(self, epoch: int, batches: Batches) -> Tally:
        """Train epoch `epoch` (from 0), then step the schedule. Dropout and the like follow from (seed, epoch)."""
        seed_global(self._seed, "training", epoch)
        tally = train_epoch(self.step, batches, self.scheduler)
        self.epochs = epoch + 1
        return tally

    def score(self, batches: Batches) -> Tally:
        """Score the network in evaluation mode."""
        return evaluate(self.step.network, batches, self.compute.autocast())

    def aside(self) -> Aside:
        """A copy of all that the next epoch starts from; rates follow from the plan."""
        return Aside(self.model, self.optimizer, self._scaler, self._copies)

    def close(self) -> None:
        """Give back what the step holds; nothing is trained from here on."""
        self.step.close()

    def load(self, state: dict[str, Any], epochs: int) -> None:
        """Put a later state, that after `epochs` epochs, in place of the present one, and step the schedule to it."""
        self.optimizer.zero_grad()
        for _ in range(self.epochs, epochs):
            step(self.optimizer, self.scheduler)
        restore(state, self.model, self.optimizer, self._scaler)
        self.epochs = epochs


def initial_network(
    config: Config, compute: Compute, network: Callable[[], nn.Module], memory_format: torch.memory_format
) -> nn.Module:
    """The network on the device with the initial weights that follow from the seed."""
    seed_global(config.seed, "initial weights")
    return network().to(compute.device).to(memory_format=memory_format)
