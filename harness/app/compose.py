"""From Hydra's composition to the typed configuration, and from its errors to messages for people."""

from __future__ import annotations

import re
import secrets
import string
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
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


def _unique() -> str:
    """Six letters and digits, so that two programs started in the same second do not meet in one folder."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(6))


OmegaConf.register_new_resolver("part_of", _part_of, replace=True)
OmegaConf.register_new_resolver("unique", _unique, replace=True, use_cache=True)


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
    with refusals_told(overrides), initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        composed = compose("config", overrides=list(overrides), return_hydra_config=True)
    name = composed.hydra.runtime.choices.scheduler
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return typed_config(composed), name


@contextmanager
def refusals_told(overrides: Sequence[str]) -> Iterator[None]:
    """While entered, what Hydra has against these overrides is a user's mistake.

    Raises:
        UserError: with Hydra's words, or ours where its own do not help.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(message(error, overrides)) from None
    except (TypeError, ValueError) as error:
        if (text := _refused_choice(error, overrides)) is None:
            raise
        raise UserError(text) from None


# What other programs call it.
_SYNONYMS = {
    "learning_rate": "lr", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size", "max_epochs": "epochs",
    "num_epochs": "epochs", "num_workers": "workers", "random_seed": "seed", "arch": "architecture",
}  # fmt: skip


def message(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message for a wrong override, in one line; where it can be in the form key, value, what is allowed."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _wrong_choice(error, overrides)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value ({error.message.splitlines()[0]})"
    cause: BaseException | None = error
    while cause is not None and not isinstance(error, UserError):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
            return _unknown_key(str(cause.full_key), cause.parent_node, overrides)
        cause = cause.__cause__
    text = str(error).partition("\nConfig search path")[0].strip()
    if text.startswith("Ambiguous value for argument"):
        typed = text.split("'")[1]
        key, _, values = typed.partition("=")
        return f"{typed}: must be one value; several are swept with -m, and a list is typed as {key}=[{values}]"
    if text.startswith("Error resolving interpolation"):  # of what is chosen of a group
        choices = [each for each in overrides if each.partition("=")[2] and each.partition("=")[2] in text]
        return f"{' '.join(choices)}: must be a name ({' '.join(text.split())})"
    return text


def _refused_choice(error: Exception, overrides: Sequence[str]) -> str | None:
    """The message for a group's choice that is no name, at which Hydra raises what is no exception of its own.

    None for what was raised elsewhere, in a job say.
    """
    if "hydra" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts:
        return None
    for override in map(Override.parse, overrides):
        folder = CONFIG_DIR / override.key
        if not override.key or (folder.is_dir() and override.text != override.key):
            names = sorted(path.stem for path in folder.glob("*.yaml"))
            if override.key and any(override.text.endswith(f"={name}") for name in names):
                continue
            return f"{override.text}: must be one of {', '.join(names)}" if override.key else f"{override.text}: no key"
    typed = [override.text for override in map(Override.parse, overrides) if override.key.startswith("hydra/")]
    return f"{' '.join(typed)}: must be a name, or a list of names" if typed else None


def _wrong_choice(error: MissingConfigException, overrides: Sequence[str]) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    typed = next((text for text in overrides if Override.parse(text).key == group), f"{group}={name}")
    return f"{typed}: must be one of {', '.join(error.options or ())}{closest(name, error.options or ())}"


def _unknown_key(full_key: str, parent_node: Any, overrides: Sequence[str]) -> str:
    parent, _, key = full_key.rpartition(".")
    known = [str(name) for name in parent_node if name != "hydra"]
    typed = next((text for text in overrides if Override.parse(text).key == full_key), full_key)
    where = f" in {parent}" if parent else ""
    hint = _MIXED if parent == "scheduler" and _names_several_schedules(overrides) else ""
    meant = _SYNONYMS.get(key, key)
    deeper = [] if parent else [f"{name}.{inner}" for name in known for inner in _keys_of(parent_node, name)]
    places = [place for place in (*known, *deeper) if place.rpartition(".")[2] == meant]
    near = f" (did you mean {' or '.join(places)}?)" if places else closest(key, known)
    return f"{typed}: unknown setting{near}; known{where}: {', '.join(known)}{hint}"


def _keys_of(node: Any, name: str) -> list[str]:
    inner = node._get_node(name)
    return [str(key) for key in inner] if isinstance(inner, DictConfig) and not inner._is_none() else []


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
