"""What a Hydra multirun needs beside its jobs: telling folder names, and the report when it is over."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.errors import UserError

log = logging.getLogger(__name__)

# Hydra's override_dirname joins overrides with this; conf/config.yaml sets it.
_SEPARATOR = "__"
_LONGEST_NAME = 120


class NoteSweepFolder(Callback):  # type: ignore[misc]
    """Remembers, in the parent process, the folder of the multirun that Hydra starts.

    Hydra 1.3 does not call `on_multirun_end` after a failed job, so the report is not made there.
    """

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it launches the jobs."""
        NoteSweepFolder.folder = Path(str(config.hydra.sweep.dir))


def report_on_sweep() -> None:
    """Write and print the report on the multirun that ran in this process, if there was one.

    What keeps the report from being written is logged, and does not hide how the sweep itself ended.
    """
    folder = NoteSweepFolder.folder
    if folder is None:
        return
    from harness.aggregates import write_aggregates
    from harness.report import write_report

    try:
        report = write_report([folder], folder / "report")
        write_aggregates(report.comparison.groups, folder / "aggregated")
    except UserError as error:
        log.error("no report: %s", error)
        return
    print(f"\n{report.text}\n")
    for path in report.files:
        print(f"report: {path}")
    print(f"curves: tensorboard --logdir {shlex.quote(str(folder))}")


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


def _fixed_key(argument: str) -> str | None:
    if argument.startswith("-"):
        return None
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
    key = str(override.key_or_group)
    return None if override.is_sweep_override() or key == "scheduler" or key.startswith("hydra.") else key


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
