"""From the configuration to the scheduler, and to its plan: the rates of every epoch, known before training.

The plan comes from stepping the real `torch.optim.lr_scheduler` object, so it holds the very floats that training
will use. Epochs count from 0; the rate of an epoch is the one that epoch is trained with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.config import ClassConfig
from harness.errors import UserError
from harness.instantiate import refusing, resolve_class
from harness.training.plan import LrPlan
from harness.training.schedule_rules import check_settings, has_parts

log = logging.getLogger(__name__)

_MANY_EPOCHS = 100_000  # take seconds to plan


def build_scheduler(config: ClassConfig, optimizer: Optimizer) -> LRScheduler:
    """The scheduler that the configuration describes, on the real optimizer.

    The `schedulers` of a `SequentialLR` or `ChainedScheduler` are built too, with the same optimizer, and nothing else.

    Raises:
        UserError: naming the setting, for a class that is no scheduler stepped by epoch, for an argument that it
            does not have, and for a value outside the rules of the class.
    """
    check_settings(config)
    return _build("scheduler", {"_target_": config.target, **config.arguments}, optimizer)


def make_plan(config: ClassConfig, optimizer: Optimizer, epochs: int) -> LrPlan:
    """Step the configured scheduler through `epochs` epochs over `optimizer`, which is used up; a preview will do.

    Raises:
        UserError: as `build_scheduler`, when the scheduler fails in an epoch, when a rate is negative or not finite,
            and when anything besides the learning rate changes (momentum, say), which a plan of rates cannot describe.
    """
    if epochs >= _MANY_EPOCHS:
        log.info("planning the learning rates of %s epochs", f"{epochs:,}")
    before = _other_settings(optimizer)
    scheduler = build_scheduler(config, optimizer)
    rates: list[tuple[float, ...]] = []
    for epoch in range(epochs):
        with refusing("scheduler", type(scheduler), config.arguments, f" (after epoch {epoch})"):
            rates.append(tuple(float(group["lr"]) for group in optimizer.param_groups))
            _check_epoch(config, epoch, rates[-1], before, _other_settings(optimizer))
            step(optimizer, scheduler)
    return LrPlan(tuple(group["name"] for group in optimizer.param_groups), tuple(rates))


def step(optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """One epoch of the schedule without training: no parameter has a gradient, so the optimizer changes nothing."""
    with refusing("optimizer", type(optimizer), {}):
        optimizer.step()
    scheduler.step()


def _check_epoch(
    config: ClassConfig, epoch: int, rates: tuple[float, ...], before: list[dict[str, Any]], now: list[dict[str, Any]]
) -> None:
    for rate in rates:
        if not math.isfinite(rate) or rate < 0:
            raise UserError(
                f"scheduler: {config.target} gives epoch {epoch} the learning rate {rate}; must be 0 or more"
            )
    for old, new in zip(before, now, strict=True):
        for name, value in old.items():
            if new[name] != value:
                raise UserError(
                    f"scheduler: {config.target} changes the optimizer's {name} from {value} to {new[name]}; "
                    "must change the learning rate alone (set cycle_momentum to false where there is such a setting)"
                )


def _other_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]


def _build(key: str, settings: Mapping[str, Any], optimizer: Optimizer) -> LRScheduler:
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    cls = resolve_class(key, settings["_target_"], LRScheduler)
    given = dict(arguments)
    if has_parts(cls):
        parts = enumerate(arguments["schedulers"])
        given["schedulers"] = [_build(f"{key}.schedulers[{number}]", part, optimizer) for number, part in parts]
    with refusing(key, cls, arguments):
        scheduler: LRScheduler = cls(optimizer, **given)
    return scheduler
