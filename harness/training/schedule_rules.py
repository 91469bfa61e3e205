"""What of a schedule's settings is refused, and what is warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from harness.config import ClassConfig
from harness.errors import UserError, shown
from harness.instantiate import check_arguments, resolve_class
from harness.training.plan import LrPlan


def check_settings(config: ClassConfig) -> None:
    """Refuse what torch accepts in silence: milestones that cannot fire, a gamma that does not decay.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    for node in _nodes("scheduler", config.target, config.arguments, 0, 0):
        if issubclass(node.cls, torch_schedulers.ReduceLROnPlateau):
            raise UserError(
                f"{node.key}._target_={node.target}: steps on a metric, so its rates are not known before training; "
                "must be a scheduler that is stepped by epoch"
            )
        parts = ("schedulers",) if has_parts(node.cls) else ()
        _check_nesting(node.key, {name: value for name, value in node.arguments.items() if name not in parts})
        _check_values(node)
        check_arguments(node.key, node.cls, node.arguments, given=("optimizer",), parts=parts)


def has_parts(cls: type) -> bool:
    """Whether it is made of other schedulers, its `schedulers`."""
    return issubclass(cls, torch_schedulers.SequentialLR | torch_schedulers.ChainedScheduler)


def plan_warnings(config: ClassConfig, plan: LrPlan) -> list[str]:
    """What is allowed but hardly meant: decays that never fire or that change nothing, one sentence each."""
    nodes = list(_nodes("scheduler", config.target, config.arguments, 0, plan.epochs))
    warnings = [warning for node in nodes for warning in (*_never_fires(node, plan), *_changes_nothing(node, plan))]
    is_constant = issubclass(nodes[0].cls, torch_schedulers.ConstantLR)
    if not warnings and plan.epochs > 1 and not plan.changes and not is_constant:
        warnings.append(f"the schedule never changes the learning rate in {plan.epochs} epochs")
    zero = next((epoch for epoch, rates in enumerate(plan.rates) if not any(rates)), None)
    if zero is not None:
        warnings.append(f"the learning rate is 0 in epoch {zero}, which trains nothing")
    return warnings


@dataclass(frozen=True)
class _Node:
    """One scheduler of a possibly nested configuration; it acts from the run's epoch `start`, its own 0, to `end`."""

    key: str
    target: str
    cls: type[LRScheduler]
    arguments: dict[str, Any]
    start: int
    end: int

    @property
    def milestones(self) -> list[int]:
        """What `check_settings` found to be milestones; an argument of that name of another class may be anything."""
        decays_at_them = issubclass(self.cls, torch_schedulers.MultiStepLR | torch_schedulers.SequentialLR)
        return self.arguments.get("milestones", []) if decays_at_them else []


def _nodes(key: str, target: str, arguments: dict[str, Any], start: int, end: int) -> Iterator[_Node]:
    cls = resolve_class(key, target, LRScheduler)
    yield _Node(key, target, cls, arguments, start, end)
    if not has_parts(cls):
        return
    parts = arguments.get("schedulers")
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{key}.schedulers={shown(parts)}: must be a list of schedulers, each with a _target_")
    switches = arguments.get("milestones") if issubclass(cls, torch_schedulers.SequentialLR) else None
    for position, part in enumerate(parts):
        if not (isinstance(part, Mapping) and isinstance(part.get("_target_"), str)):
            raise UserError(f"{key}.schedulers[{position}]={part}: must be a scheduler with a _target_")
        first, last = start, end
        if isinstance(switches, list) and len(switches) == len(parts) - 1 and all(map(_is_whole, switches)):
            first = start + switches[position - 1] if position else start
            last = min(end, start + switches[position]) if position < len(switches) else end
        inner = {name: value for name, value in part.items() if name != "_target_"}
        yield from _nodes(f"{key}.schedulers[{position}]", part["_target_"], inner, first, last)


def _check_nesting(key: str, value: object) -> None:
    """Refuse what would have to be built and is no part of a schedule."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            raise UserError(f"{key}={shown(value)}: must be a plain value; only schedulers hold what has a _target_")
        for name, each in value.items():
            _check_nesting(f"{key}.{name}", each)
    elif isinstance(value, list):
        for position, each in enumerate(value):
            _check_nesting(f"{key}[{position}]", each)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_PERIODS = {
    torch_schedulers.StepLR: "step_size",
    torch_schedulers.CosineAnnealingLR: "T_max",
    torch_schedulers.CosineAnnealingWarmRestarts: "T_0",
}


def _check_values(node: _Node) -> None:
    cls, arguments = node.cls, node.arguments
    if arguments.get("last_epoch", -1) != -1:
        raise UserError(
            f"{node.key}.last_epoch={arguments['last_epoch']}: must be -1; to continue a run use resume=<its folder>"
        )
    if issubclass(cls, torch_schedulers.MultiStepLR | torch_schedulers.SequentialLR) and "milestones" in arguments:
        _check_milestones(node.key, arguments["milestones"])
    for periodic, name in _PERIODS.items():
        period = arguments.get(name, 1)
        if issubclass(cls, periodic) and not (_is_whole(period) and period >= 1):
            raise UserError(f"{node.key}.{name}={shown(period)}: must be a whole number of epochs, 1 or more")
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


def _never_fires(node: _Node, plan: LrPlan) -> list[str]:
    warnings, is_last = [], node.end == plan.epochs
    reason = f"the run's last epoch is {plan.epochs - 1}" if is_last else "the next schedule takes over"
    for milestone in node.milestones:
        if (epoch := node.start + milestone) >= node.end:
            inner = f" (epoch {epoch} of the run)" if epoch != milestone else ""
            warnings.append(f"milestone {milestone}{inner} never fires: {reason} (epochs={plan.epochs})")
    step_size = node.arguments.get("step_size", 0)
    if issubclass(node.cls, torch_schedulers.StepLR) and step_size >= node.end - node.start:
        warnings.append(f"step_size {step_size} never fires: {reason} (epochs={plan.epochs})")
    return warnings


def _changes_nothing(node: _Node, plan: LrPlan) -> list[str]:
    if not issubclass(node.cls, torch_schedulers.MultiStepLR):
        return []
    warnings = []
    for milestone in node.milestones:
        if (epoch := node.start + milestone) < node.end:
            pairs = zip(plan.groups, plan.rates[epoch - 1], plan.rates[epoch], strict=True)
            still = [name for name, old, new in pairs if old == new]
            if still:
                warnings.append(f"the decay at epoch {epoch} does not change the learning rate of {', '.join(still)}")
    return warnings
