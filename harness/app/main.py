"""Between Hydra and the typed world: compose and check a configuration, run it, and say what went wrong."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.app.arguments import CommandLine
from harness.app.callbacks import SweepPlanner, continued, report_on_sweep
from harness.app.compose import job_title, message, typed_config
from harness.app.sweep_folder import seen_from_here
from harness.app.sweep_plan import boundaries_to_save
from harness.config import Config
from harness.errors import UserError
from harness.files import write_text
from harness.record import OVERRIDES, Summary, holds_run

if TYPE_CHECKING:
    from harness.stages.walk import Sharing

log = logging.getLogger(__name__)


def run_job(composed: DictConfig) -> None:
    """What Hydra calls for each job: one run in the job's output folder.

    Failures go to the job's log and summary.json before Hydra hears of them.
    """
    hydra = HydraConfig.get()
    folder = seen_from_here(Path(hydra.runtime.output_dir))
    if hydra.mode == RunMode.RUN:
        _run(composed, hydra, folder)
    else:
        title = job_title(hydra.runtime.choices.scheduler, hydra.job.override_dirname)
        SweepPlanner.lines.show(hydra.job.num, title, folder, lambda: _run(composed, hydra, folder))


def _run(composed: DictConfig, hydra: DictConfig, folder: Path) -> Summary:
    from harness.machine import spare_the_collector
    from harness.runs.folder import record_failure
    from harness.runs.request import Request
    from harness.runs.run import run

    spare_the_collector()
    name = hydra.runtime.choices.scheduler
    try:
        # Not the present one where hydra.job.chdir is set, or where a launcher runs its jobs in another folder.
        start = Path(hydra.runtime.cwd)
        config = _with_images_from(start, typed_config(composed))
        is_sweep = hydra.mode == RunMode.MULTIRUN
        _check_mode(config, is_sweep)
        setting = config.resume or ("auto" if is_sweep else None)
        resume = setting not in (None, "auto", "never") or (setting == "auto" and holds_run(folder))
        save_at = boundaries_to_save(start / hydra.sweep.dir, hydra.overrides.task) if is_sweep else ()
        sharing = None if setting == "never" else _sharing(config, setting is not None, save_at, start)
        command = ("python", "train.py", *(o for o in hydra.overrides.task if not o.startswith("resume=")))
        summary = run(Request(config, name, folder, resume, command, sharing))
        if resume and not is_sweep:
            _record_overrides(folder, composed, hydra.overrides.task)
        return summary
    except Exception as error:
        log.error("%s", error, exc_info=None if isinstance(error, UserError) else error)
        record_failure(folder, error, name, composed.get("seed"))
        if hydra.mode == RunMode.RUN:
            sys.exit(2 if isinstance(error, UserError) else 1)
        # The exception that Hydra keeps for the rest of a sweep would keep the job's tensors with it.
        traceback.clear_frames(error.__traceback__)
        raise


def _check_mode(config: Config, is_sweep: bool) -> None:
    if is_sweep and config.resume not in (None, "auto", "never"):
        raise UserError(f"resume={config.resume}: continues one run, not a multirun; must be auto or never with -m")
    if config.plan_only:
        raise UserError("plan_only=true: draws the tree of a multirun; needs -m (scripts/preview.py shows one run)")


def _sharing(config: Config, takes: bool, save_at: tuple[int, ...], start: Path) -> Sharing:
    from harness.stages.store import open_store
    from harness.stages.walk import Sharing

    if takes and not config.deterministic:
        log.info(
            "deterministic=false: epochs taken over from other runs are as good as own ones, but not equal in bits"
        )
    stages = config.stages
    return Sharing(open_store(stages, seen_from_here(start)), takes, stages.every, save_at, stages.overtake_after)


def main(entry: Callable[[], Any]) -> None:
    """Run the Hydra entry point of train.py on its command line; what Hydra has against that is a user's mistake.

    Raises:
        UserError: with Hydra's words, or ours where its own do not help.
    """
    # Hydra then raises what went wrong, in place of printing it and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = continued(CommandLine.parse(sys.argv[1:])).resumed().with_short_names().arguments
    completed = False
    try:
        entry()
        completed = True
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(message(error, sys.argv[1:])) from None
    finally:
        report_on_sweep(completed)


def _with_images_from(start: Path, config: Config) -> Config:
    """The configuration for a job that does not run in the folder where the user typed a relative `data.root`."""
    root = getattr(config.data, "root", None)
    if root is None or start == Path.cwd():
        return config
    data = config.data.model_copy(update={"root": str(start / root)})
    return config.model_copy(update={"data": data})


def _record_overrides(folder: Path, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Bring Hydra's record up to date, so that the next resume begins with these overrides."""
    write_text(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(composed))
