"""A schedule as a value: the learning rate of every epoch and parameter group, known before training.

The plan comes from stepping the real `torch.optim.lr_scheduler` object, so it holds the very floats that training
will use. Epochs count from 0; the rate of an epoch is the one that epoch is trained with.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from harness.classes import check_arguments, resolve_class
from harness.config import ClassConfig
from harness.errors import UserError


@dataclass(frozen=True)
class LrChange:
    """The first epoch trained with new rates, and each group's rate before and from then on."""

    epoch: int
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class LrPlan:
    """`rates[epoch][group]`, in the order of `groups`."""

    groups: tuple[str, ...]
    rates: tuple[tuple[float, ...], ...]

    @property
    def epochs(self) -> int:
        """Number of epochs planned."""
        return len(self.rates)

    @property
    def changes(self) -> tuple[LrChange, ...]:
        """The epochs, in order, whose rates differ from the epoch before."""
        pairs = enumerate(pairwise(self.rates), start=1)
        return tuple(LrChange(epoch, old, new) for epoch, (old, new) in pairs if old != new)

    def by_group(self, epoch: int) -> dict[str, float]:
        """The rates of one epoch by group name."""
        return dict(zip(self.groups, self.rates[epoch], strict=True))

    def agreement(self, trained: Sequence[Mapping[str, float]]) -> int:
        """How many epochs from the first on were trained (`trained[epoch][group]`) just as this plan says."""
        for epoch, rates in enumerate(trained[: self.epochs]):
            if dict(rates) != self.by_group(epoch):
                return epoch
        return min(len(trained), self.epochs)


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


def check_settings(config: ClassConfig) -> None:
    """Refuse what torch accepts in silence: milestones that cannot fire, a gamma that does not decay.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    for node in _nodes(config, epochs=0):
        cls = resolve_class(node.key, node.target, LRScheduler)
        if issubclass(cls, torch_schedulers.ReduceLROnPlateau):
            raise UserError(
                f"{node.key}._target_={node.target}: steps on a metric, so its rates are not known before training; "
                "must be a scheduler that is stepped by epoch"
            )
        check_arguments(node.key, cls, node.arguments, given=("optimizer",))
        _check_values(node, cls)


def plan_warnings(config: ClassConfig, plan: LrPlan) -> list[str]:
    """What is allowed but hardly meant: decays that never fire or that change nothing, one sentence each."""
    found: list[str] = []
    for node in _nodes(config, plan.epochs):
        found += _never_fires(node, plan) + _changes_nothing(node, plan)
    if not found and plan.epochs > 1 and not plan.changes and not config.target.endswith(".ConstantLR"):
        found.append(f"the schedule never changes the learning rate in {plan.epochs} epochs")
    zero = next((epoch for epoch, rates in enumerate(plan.rates) if not any(rates)), None)
    if zero is not None:
        found.append(f"the learning rate is 0 in epoch {zero}, which trains nothing")
    return found


@dataclass(frozen=True)
class _Node:
    """One scheduler of a possibly nested configuration; it acts from the run's epoch `start`, its own 0, to `end`."""

    key: str
    target: str
    arguments: dict[str, Any]
    start: int
    end: int


def _nodes(config: ClassConfig, epochs: int) -> Iterator[_Node]:
    yield from _walk("scheduler", config.target, config.arguments, 0, epochs)


def _walk(key: str, target: str, arguments: dict[str, Any], start: int, end: int) -> Iterator[_Node]:
    yield _Node(key, target, arguments, start, end)
    parts = arguments.get("schedulers")
    if not isinstance(parts, list):
        return
    switches = arguments.get("milestones") if target.endswith(".SequentialLR") else None
    for position, part in enumerate(parts):
        if not (isinstance(part, Mapping) and isinstance(part.get("_target_"), str)):
            raise UserError(f"{key}.schedulers[{position}]={part}: must be a scheduler with a _target_")
        first, last = start, end
        if isinstance(switches, list) and len(switches) == len(parts) - 1 and all(map(_is_whole, switches)):
            first = start + switches[position - 1] if position else start
            last = min(end, start + switches[position]) if position < len(switches) else end
        inner = {name: value for name, value in part.items() if name != "_target_"}
        yield from _walk(f"{key}.schedulers[{position}]", part["_target_"], inner, first, last)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_values(node: _Node, cls: type) -> None:
    arguments = node.arguments
    if arguments.get("last_epoch", -1) != -1:
        raise UserError(
            f"{node.key}.last_epoch={arguments['last_epoch']}: must be -1; to continue a run use resume=<its folder>"
        )
    if issubclass(cls, torch_schedulers.MultiStepLR | torch_schedulers.SequentialLR):
        _check_milestones(node.key, arguments["milestones"])
    if issubclass(cls, torch_schedulers.StepLR):
        step_size = arguments["step_size"]
        if not _is_whole(step_size) or step_size < 1:
            raise UserError(f"{node.key}.step_size={step_size}: must be a whole number of epochs, 1 or more")
    decays = torch_schedulers.MultiStepLR | torch_schedulers.StepLR | torch_schedulers.ExponentialLR
    if issubclass(cls, decays) and "gamma" in arguments:
        gamma = arguments["gamma"]
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < 1:
            raise UserError(f"{node.key}.gamma={gamma}: must be a number above 0 and below 1")


def _check_milestones(key: str, milestones: object) -> None:
    allowed = "must be a list of whole epochs, 1 or more, each above the one before, such as [30, 80]"
    label = f"{key}.milestones={milestones}"
    if not isinstance(milestones, list) or not milestones:
        raise UserError(f"{label}: {allowed}")
    for milestone in milestones:
        if not _is_whole(milestone):
            raise UserError(f"{label}: {milestone} is no whole number; {allowed}")
        if milestone < 1:
            raise UserError(f"{label}: {milestone} is below 1; {allowed}")
    for earlier, later in pairwise(milestones):
        if later == earlier:
            raise UserError(f"{label}: {later} is repeated; {allowed}")
        if later < earlier:
            raise UserError(f"{label}: {later} comes after {earlier}; {allowed}")


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


def _firings(node: _Node) -> list[int]:
    """The epochs of the run at which this node's milestones would fire."""
    milestones = node.arguments.get("milestones")
    return [node.start + m for m in milestones] if isinstance(milestones, list) else []


def _never_fires(node: _Node, plan: LrPlan) -> list[str]:
    found = []
    for milestone, epoch in zip(node.arguments.get("milestones", ()), _firings(node), strict=True):
        if epoch >= node.end:
            inner = f" (epoch {epoch} of the run)" if epoch != milestone else ""
            reason = (
                f"the run's last epoch is {plan.epochs - 1}"
                if node.end == plan.epochs
                else "the next schedule takes over"
            )
            found.append(f"milestone {milestone}{inner} never fires: {reason} (epochs={plan.epochs})")
    step_size = node.arguments.get("step_size", 0)
    if node.target.endswith(".StepLR") and step_size >= node.end - node.start:
        found.append(
            f"step_size {step_size} never fires: the run's last epoch is {plan.epochs - 1} (epochs={plan.epochs})"
        )
    return found


def _changes_nothing(node: _Node, plan: LrPlan) -> list[str]:
    if not node.target.endswith(".MultiStepLR"):
        return []
    found = []
    for epoch in _firings(node):
        if epoch < node.end:
            pairs = zip(plan.groups, plan.rates[epoch - 1], plan.rates[epoch], strict=True)
            still = [name for name, old, new in pairs if old == new]
            if still:
                found.append(f"the decay at epoch {epoch} does not change the learning rate of {', '.join(still)}")
    return found
