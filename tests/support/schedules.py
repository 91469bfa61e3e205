"""Schedules and optimizers of a user's own."""

import random

from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR


class Mine(MultiStepLR):
    """A subclass is checked and warned of as its parent is."""


class AtWhatever(LRScheduler):
    """A schedule to which `milestones` means something of its own."""

    def __init__(self, optimizer, milestones, last_epoch=-1):
        self.milestones = milestones
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [group["lr"] * (0.5 if self.last_epoch == 3 else 1.0) for group in self.optimizer.param_groups]


class Fails(LRScheduler):
    """A schedule with a mistake in it."""

    def get_lr(self):
        return {}["rate"]


class NeedsMore(SGD):
    """An optimizer that is not built from its parameter groups alone."""

    def __init__(self, params, lr, more):
        self.more = more
        super().__init__(params, lr)


class Forgets(SGD):
    """An optimizer that takes whatever a group may say, and forgets the groups."""

    def __init__(self, params, lr, **others):
        super().__init__([parameter for group in params for parameter in group["params"]], lr)


class Counts(SGD):
    """An optimizer that counts its steps where no state has them."""

    def __init__(self, params, lr, in_group=False):
        super().__init__(params, lr)
        self.count, self.in_group = 0, in_group

    def step(self, closure=None):
        if self.in_group:
            self.param_groups[0]["k"] = self.param_groups[0].get("k", 0) + 1
        else:
            self.count += 1


class Random(LRScheduler):
    """Never the same rates twice."""

    def get_lr(self):
        return [random.random() for _ in self.base_lrs]


class WithoutGradient(SGD):
    """An optimizer with a mistake that shows where no parameter has a gradient."""

    def __init__(self, params, lr):
        super().__init__(params, lr)

    def step(self, closure=None):
        self.param_groups[0]["params"][0].grad.add_(1)
