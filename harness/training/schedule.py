"""From the configuration to the scheduler, and to its plan: the rates of every epoch, known before training.

The plan comes from stepping the real `torch.optim.lr_scheduler` object, so it holds the very floats that training
will use. Epochs count from 0; the rate of an epoch is the one that epoch is trained with.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.config import ClassConfig
from harness.errors import UserError
from harness.training.plan import LrPlan
from harness.training.schedule_rules import check_settings


def build_scheduler(config: ClassConfig, optimizer: Optimizer) -> LRScheduler:
    """The scheduler that the configuration describes, on the real optimizer.

    Nested `_target_` entries (the parts of a `SequentialLR`, say) are built too, schedulers among them with the
    same optimizer.

    Raises:
        UserError: naming the setting, for a class that is no scheduler stepped by epoch, for an argument that it
            does not have, and for a value outside the rules of the class.
    """
    check_settings(config)
    try:
        scheduler: LRScheduler = _build({"_target_": config.target, **config.arguments}, optimizer)
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"scheduler: {config.target} refused its settings: {error}") from None
    return scheduler


def make_plan(config: ClassConfig, optimizer: Optimizer, epochs: int) -> LrPlan:
    """Step the configured scheduler through `epochs` epochs over a stand-in for `optimizer`, which stays untouched.

    Raises:
        UserError: as `build_scheduler`, and when a rate is negative or not finite, or when the scheduler changes
            anything besides the learning rate (momentum, say), which a plan of rates cannot describe.
    """
    stand_in = _stand_in(optimizer)
    before = _other_settings(stand_in)
    scheduler = build_scheduler(config, stand_in)
    rates: list[tuple[float, ...]] = []
    for epoch in range(epochs):
        rates.append(tuple(float(group["lr"]) for group in stand_in.param_groups))
        _check_epoch(config, epoch, rates[-1], before, _other_settings(stand_in))
        step(stand_in, scheduler)
    return LrPlan(tuple(group["name"] for group in optimizer.param_groups), tuple(rates))


def step(optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """One epoch of the schedule without training: no parameter has a gradient, so the optimizer changes nothing."""
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


def _stand_in(optimizer: Optimizer) -> Optimizer:
    groups = [
        {k: v for k, v in group.items() if k != "initial_lr"} | {"params": [torch.nn.Parameter(torch.zeros(1))]}
        for group in optimizer.param_groups
    ]
    cls: type[Any] = type(optimizer)
    stand_in: Optimizer = cls(groups)
    return stand_in


def _build(node: Any, optimizer: Optimizer) -> Any:
    if isinstance(node, list):
        return [_build(item, optimizer) for item in node]
    if not (isinstance(node, Mapping) and "_target_" in node):
        return node
    arguments = {name: _build(value, optimizer) for name, value in node.items() if name != "_target_"}
    made = pkgutil.resolve_name(node["_target_"])
    if isinstance(made, type) and issubclass(made, LRScheduler):
        arguments["optimizer"] = optimizer
    return made(**arguments)
