"""From Hydra's composition to the typed configuration, and from its errors to messages for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.app.arguments import Override
from harness.config import Config, parse_config
from harness.errors import UserError, closest

CONFIG_DIR = Path(__file__).resolve().parents[2] / "conf"
_MIXED = "; what not all swept schedules have goes into a file for each variant, as conf/scheduler/ms_50_75.yaml"


def _part_of(count: int, part: float) -> int:
    """A part of a number of epochs, in whole epochs, at least one: `${part_of:${epochs},0.8}`."""
    return max(1, round(count * part))


OmegaConf.register_new_resolver("part_of", _part_of, replace=True)


def typed_config(composed: DictConfig) -> Config:
    """Check what Hydra composed.

    Raises:
        UserError: with a line for each wrong setting.
    """
    try:
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}: must be set, it has no default") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from None
    return parse_config(values)


def compose_config(overrides: Sequence[str]) -> tuple[Config, str]:
    """The configuration for these command-line overrides, outside a Hydra job, and the schedule's name.

    Raises:
        UserError: as `typed_config`, and for overrides that Hydra refuses.
    """
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = compose("config", overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise UserError(message(error, overrides)) from None
    name = composed.hydra.runtime.choices.scheduler
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return typed_config(composed), name


def message(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message for a wrong override; for an unknown key in the form key, value, what is allowed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(error, UserError):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
            parent, _, key = str(cause.full_key).rpartition(".")
            known = [str(name) for name in cause.parent_node if name != "hydra"]
            typed = next((text for text in overrides if Override.parse(text).key == cause.full_key), cause.full_key)
            where = f" in {parent}" if parent else ""
            hint = _MIXED if parent == "scheduler" and _names_several_schedules(overrides) else ""
            return f"{typed}: unknown setting{closest(key, known)}; known{where}: {', '.join(known)}{hint}"
        cause = cause.__cause__
    return str(error).partition("\nConfig search path")[0].strip()


def _names_several_schedules(overrides: Sequence[str]) -> bool:
    several = (override.removeprefix("scheduler=") for override in overrides if override.startswith("scheduler="))
    return any("," in names or names.startswith("glob(") for names in several)


# Hydra's override_dirname joins overrides with this; conf/config.yaml sets it.
_SEPARATOR = "__"
_LONGEST_NAME = 120


def run_name(override_dirname: str) -> str:
    """A folder name of letters, digits and `=.+-_` from Hydra's `override_dirname`.

    The schedule comes first, by its name alone; its settings lose their prefix, and lists their brackets:
    `scheduler.milestones=[30,80]__scheduler=multistep__seed=0` becomes `multistep_milestones=30-80_seed=0`.
    """
    parts = override_dirname.split(_SEPARATOR)
    schedule = [part.partition("=")[2] for part in parts if part.startswith("scheduler=")]
    others = [part.removeprefix("scheduler.") for part in parts if not part.startswith("scheduler=")]
    bare = (re.sub(r"[\[\]{}()'\" ]", "", part) for part in [*schedule, *others])
    names = (re.sub(r"[^A-Za-z0-9=.+-]+", "-", part) for part in bare)
    return "_".join(name for name in names if name)[:_LONGEST_NAME]


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def job_title(schedule: str, override_dirname: str) -> str:
    """What tells a job of a sweep from the others, for people: `multistep milestones=[30,80] seed=0`."""
    parts = override_dirname.split(_SEPARATOR)
    others = (part.removeprefix("scheduler.") for part in parts if not part.startswith("scheduler="))
    return " ".join([schedule, *filter(None, others)])
