"""The command line of train.py, with what its user need not type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.app.compose import override_key
from harness.errors import UserError
from harness.record import OVERRIDES


def quoted(path: Path) -> str:
    """A path for Hydra's grammar, which reserves some signs that the folders of a sweep have in their names."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def with_excluded_keys(arguments: Sequence[str]) -> list[str]:
    """The command line with those settings kept out of folder names, but for the schedule, that all jobs share."""
    fixed = [key for argument in arguments if (key := _fixed_key(argument)) is not None]
    if not fixed:
        return list(arguments)
    keys = ",".join(dict.fromkeys(fixed))
    return beside_overrides(arguments, [f"hydra.job.config.override_dirname.exclude_keys=[{keys}]"])


def beside_overrides(arguments: Sequence[str], more: Sequence[str]) -> list[str]:
    """The command line with more overrides before its first one; the parser wants all of them in one row."""
    first = next((i for i, argument in enumerate(arguments) if not argument.startswith("-") and "=" in argument), 0)
    return [*arguments[:first], *more, *arguments[first:]]


def _fixed_key(argument: str) -> str | None:
    if argument.startswith("-"):
        return None
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
    key = str(override.key_or_group)
    return None if override.is_sweep_override() or key == "scheduler" or key.startswith("hydra.") else key


def with_resumed_overrides(arguments: Sequence[str]) -> list[str]:
    """For `resume=FOLDER`, the overrides that the run was begun with, then the given ones, in that run's folder.

    Hydra's own record in the folder is left as it is until the run was found fit to continue.

    Raises:
        UserError: when FOLDER holds no run.
    """
    given = list(arguments)
    modes = ("resume=never", "resume=auto", "resume=null")
    folders = [a.removeprefix("resume=") for a in given if a.startswith("resume=") and a not in modes]
    if not folders or any(a in ("-m", "--multirun") for a in given):
        return given
    folder = Path(folders[-1].strip("'\""))
    if not (folder / OVERRIDES).is_file():
        raise UserError(
            f"resume={folders[-1]}: must be auto, never or the folder of a run (there is no {folder / OVERRIDES})"
        )
    begun: list[str] = yaml.safe_load((folder / OVERRIDES).read_text()) or []
    keys = {override_key(argument) for argument in given if not argument.startswith("-")}
    kept = [override for override in begun if override_key(override) not in {*keys, "resume"}]
    others = [argument for argument in given if not argument.startswith("resume=")]
    more = [*kept, f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    return beside_overrides(others, more)
