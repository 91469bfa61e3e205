"""Parameter groups and the torch optimizers over them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from harness.config import OptimizerConfig
from harness.errors import UserError, shown
from harness.instantiate import check_arguments, refusing, resolve_class

DEFAULT_GROUP = "default"
NORMS_AND_BIASES = "norms_and_biases"


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The configured optimizer over the model's parameters; each param group carries its `name`.

    A parameter belongs to the first group of `config.groups` that matches it, else to the group `default`.

    Raises:
        UserError: for a setting that the optimizer does not have, or refuses when it is built or in a step, and for a
            group without parameters.
    """
    groups = _parameter_groups(config, model)
    _try_a_step(config, {name: [_like(members[0])] for name, members in groups.items()})
    return _build(config, groups)


def preview_optimizer(config: OptimizerConfig) -> Optimizer:
    """The configured optimizer with one empty parameter in each group: all that a schedule's plan needs.

    Raises:
        UserError: as `build_optimizer`, but for what only a step shows.
    """
    return _build(config, {name: [nn.Parameter(torch.zeros(1))] for name in (DEFAULT_GROUP, *config.groups)})


def _like(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter of one element, of the same number of dimensions, device and type."""
    return nn.Parameter(torch.zeros([1] * parameter.ndim, device=parameter.device, dtype=parameter.dtype))


def _try_a_step(config: OptimizerConfig, groups: Mapping[str, list[nn.Parameter]]) -> None:
    """Some settings fail only in a step, which comes after all data are read."""
    optimizer = _build(config, groups)
    for parameter in chain.from_iterable(groups.values()):
        parameter.grad = torch.zeros_like(parameter)
    before = _kept_outside(optimizer)
    with refusing("optimizer", type(optimizer), config.arguments):
        optimizer.step()
    now = _kept_outside(optimizer)
    if changed := sorted(name for name in {**before, **now} if before.get(name) != now.get(name)):
        raise UserError(
            f"optimizer._target_={config.target}: changes {', '.join(changed)} in a step, which no checkpoint has; "
            "must keep what it carries from step to step in its `state`"
        )


def _kept_outside(optimizer: Optimizer) -> dict[str, Any]:
    """By name the plain values that an optimizer has outside its `state`: its own and its groups'; tensors as lists."""
    groups = [(f"param_groups[{number}].", group) for number, group in enumerate(optimizer.param_groups)]
    places = [("", vars(optimizer)), *groups]
    kept = {f"{place}{name}": value for place, values in places for name, value in values.items() if name[:1] != "_"}
    kept = {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in kept.items()}
    return {name: value for name, value in kept.items() if isinstance(value, bool | int | float | str | list | None)
            and not name.endswith((".params", "param_groups"))}  # fmt: skip


_UNFIT = {
    torch.optim.LBFGS: "needs several passes a step; must be a one-pass optimizer",
    torch.optim.SparseAdam: "needs sparse gradients, which no network here has; must be another optimizer",
}


def _build(config: OptimizerConfig, groups: Mapping[str, list[nn.Parameter]]) -> Optimizer:
    cls = resolve_class("optimizer", config.target, Optimizer)
    if cls in _UNFIT:
        raise UserError(f"optimizer._target_={config.target}: {_UNFIT[cls]}")
    arguments = config.arguments
    check_arguments("optimizer", cls, arguments, given=("params",))
    others = ("fused", "foreach", "differentiable")
    if "fused" in inspect.signature(cls).parameters and not any(name in arguments for name in others):
        arguments["fused"] = True
    entries = []
    for name, members in groups.items():
        own = {key: value for key, value in config.groups.get(name, {}).items() if key != "match"}
        ours = own.keys() & {"name", "initial_lr"}  # which a class that takes any setting would take
        check_arguments(f"optimizer.groups.{name}", cls, {**arguments, **own}, given=("params", *ours))
        _check_lr(name, own)
        _check_values(name, own, cls, config.arguments)
        entries.append({"params": members, "name": name, **own})
    with refusing("optimizer", cls, config.arguments):
        optimizer: Optimizer = cls(entries, **_with_tuples(arguments))
    kept = [group.get("name") for group in getattr(optimizer, "param_groups", [])]
    if kept != list(groups):
        raise UserError(
            f"optimizer._target_={config.target}: has the parameter groups {kept}; must keep {list(groups)}"
        )
    for name, settings in config.groups.items():
        for key in settings.keys() & inspect.signature(cls).parameters.keys() - optimizer.defaults.keys():
            raise UserError(
                f"optimizer.groups.{name}.{key}={shown(settings[key])}: {cls.__name__} has one for all groups; "
                f"must be given as optimizer.{key}"
            )
    return optimizer


def _check_values(name: str, own: Mapping[str, Any], cls: type[Any], arguments: Mapping[str, Any]) -> None:
    """torch's optimizers check values where they are given for all groups, and take any from a group."""
    if not own:
        return
    with suppress(Exception):  # a group without momentum may well stand beside others that have Nesterov's
        cls([nn.Parameter(torch.zeros(1))], **_with_tuples(own))
        return
    with refusing("optimizer", cls, arguments):  # first without the group, which then is not to blame
        cls([nn.Parameter(torch.zeros(1))], **_with_tuples(arguments))
    with refusing(f"optimizer.groups.{name}", cls, own):
        cls([nn.Parameter(torch.zeros(1))], **_with_tuples({**arguments, **own}))


def _with_tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def _check_lr(name: str, settings: Mapping[str, Any]) -> None:
    lr = settings.get("lr", 1.0)
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < float("inf"):
        raise UserError(f"optimizer.groups.{name}.lr={lr}: must be a number above 0")


def _parameter_groups(config: OptimizerConfig, model: nn.Module) -> dict[str, list[nn.Parameter]]:
    if DEFAULT_GROUP in config.groups:
        raise UserError(f"optimizer.groups.{DEFAULT_GROUP}: is the group of all other parameters; use another name")
    members: dict[str, list[nn.Parameter]] = {DEFAULT_GROUP: [], **{name: [] for name in config.groups}}
    for name, parameter in model.named_parameters():
        matching = (group for group, settings in config.groups.items() if _matches(group, settings, name, parameter))
        members[next(matching, DEFAULT_GROUP)].append(parameter)
    for group, settings in config.groups.items():
        if not members[group]:
            names = ", ".join(name for name, _ in list(model.named_parameters())[:6])
            raise UserError(
                f"optimizer.groups.{group}.match={settings['match']}: matches no parameter left; "
                f"the network has {names}, ..."
            )
    return {name: parameters for name, parameters in members.items() if parameters}


def _matches(group: str, settings: Mapping[str, Any], name: str, parameter: nn.Parameter) -> bool:
    pattern = settings.get("match")
    allowed = f"must be {NORMS_AND_BIASES} or a regular expression on parameter names"
    if not isinstance(pattern, str):
        raise UserError(f"optimizer.groups.{group}.match={pattern}: {allowed}")
    if pattern == NORMS_AND_BIASES:
        return parameter.ndim < 2  # scales and shifts of norms, and biases
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise UserError(f"optimizer.groups.{group}.match={pattern}: {allowed} ({error})") from None
