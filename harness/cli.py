"""Between Hydra and the typed world: compose and check a configuration, run it, and say what went wrong."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.config import Config, closest, parse_config
from harness.errors import UserError
from harness.files import write_text
from harness.sweep import beside_overrides, report_on_sweep, with_excluded_keys

log = logging.getLogger(__name__)

CONFIG_DIR = Path(__file__).resolve().parent.parent / "conf"
OVERRIDES = Path(".hydra") / "overrides.yaml"


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
        raise UserError(_message(error, overrides)) from None
    name = composed.hydra.runtime.choices.scheduler
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return typed_config(composed), name


def run_job(composed: DictConfig) -> None:
    """What Hydra calls for each job: one run in the job's output folder.

    Failures go to the job's log and summary.json before Hydra hears of them.
    """
    from harness.run import Request, record_failure, run

    hydra = HydraConfig.get()
    folder = _relative(Path(hydra.runtime.output_dir))
    name = hydra.runtime.choices.scheduler
    try:
        config = typed_config(composed)
        resume = config.resume != "never"
        if resume and hydra.mode == RunMode.MULTIRUN:
            raise UserError(f"resume={config.resume}: continues one run, not a multirun; must be never with -m")
        command = ("python", "train.py", *(o for o in hydra.overrides.task if not o.startswith("resume=")))
        run(Request(config, name, folder, resume, command))
        if resume:
            _record_overrides(folder, composed, hydra.overrides.task)
    except Exception as error:
        log.error("%s", error, exc_info=None if isinstance(error, UserError) else error)
        record_failure(folder, error, {"scheduler": name, "seed": composed.get("seed")})
        if hydra.mode == RunMode.RUN:
            sys.exit(2 if isinstance(error, UserError) else 1)
        # The exception that Hydra keeps for the rest of a sweep would keep the job's tensors with it.
        traceback.clear_frames(error.__traceback__)
        raise


def main(entry: Callable[[], Any]) -> None:
    """Run a Hydra entry point; a user's mistake becomes a message on stderr and exit status 2."""
    # Hydra then raises what went wrong, in place of printing it and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = with_excluded_keys(with_resumed_overrides(sys.argv[1:]))
        try:
            entry()
        finally:
            report_on_sweep()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {_message(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def with_resumed_overrides(arguments: Sequence[str]) -> list[str]:
    """For `resume=FOLDER`, the overrides that the run was begun with, then the given ones, in that run's folder.

    Hydra's own record in the folder is left as it is until the run was found fit to continue.

    Raises:
        UserError: when FOLDER holds no run.
    """
    given = list(arguments)
    folders = [a.removeprefix("resume=") for a in given if a.startswith("resume=") and a != "resume=never"]
    if not folders or any(a in ("-m", "--multirun") for a in given):
        return given
    folder = Path(folders[-1].strip("'\""))
    # Paths may hold what Hydra's grammar reserves: the folders of a sweep have equals signs.
    quoted = "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
    if not (folder / OVERRIDES).is_file():
        raise UserError(
            f"resume={folders[-1]}: must be never or the folder of a run (there is no {folder / OVERRIDES})"
        )
    begun: list[str] = yaml.safe_load((folder / OVERRIDES).read_text()) or []
    keys = {_key(argument) for argument in given if not argument.startswith("-")}
    kept = [override for override in begun if _key(override) not in {*keys, "resume"}]
    others = [argument for argument in given if not argument.startswith("resume=")]
    more = [*kept, f"resume={quoted}", f"hydra.run.dir={quoted}", "hydra.output_subdir=null"]
    return beside_overrides(others, more)


def _message(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message for a wrong override; for an unknown key in the form key, value, what is allowed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(error, UserError):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.parent_node is not None:
            parent, _, key = str(cause.full_key).rpartition(".")
            known = [str(name) for name in cause.parent_node if name != "hydra"]
            typed = next((text for text in overrides if _key(text) == cause.full_key), cause.full_key)
            where = f" in {parent}" if parent else ""
            return f"{typed}: unknown setting{closest(key, known)}; known{where}: {', '.join(known)}"
        cause = cause.__cause__
    return str(error).partition("\nConfig search path")[0].strip()


def _key(override: str) -> str:
    try:
        return str(OverridesParser.create().parse_override(override).key_or_group)
    except HydraException:
        return override


def _relative(folder: Path) -> Path:
    """The folder as seen from here, where it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _record_overrides(folder: Path, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Bring Hydra's record up to date, so that the next resume begins with these overrides."""
    write_text(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(composed))
