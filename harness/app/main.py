"""Between Hydra and the typed world: compose and check a configuration, run it, and say what went wrong."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from harness.app.arguments import CommandLine
from harness.app.callbacks import SweepPlanner, continued, report_on_sweep
from harness.app.compose import job_title, refusals_told, typed_config
from harness.app.resume import check_agreement, resumed
from harness.app.sweep_folder import seen_from_here
from harness.app.sweep_plan import boundaries_to_save
from harness.config import Config
from harness.errors import UserError
from harness.files import write_text
from harness.record import HYDRA, Summary, holds_run
from harness.runs.interruption import Interrupted, interruptible, raise_from_now_on
from harness.runs.lock import remove_unused
from harness.views.console import JobLogHandler

if TYPE_CHECKING:
    from harness.runs.request import Request
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
        try:
            SweepPlanner.lines.show(hydra.job.num, title, folder, lambda: _run(composed, hydra, folder))
        finally:
            # Drawing leaves the run's network in a circle of references: the next one's would come on top.
            gc.collect()


def _run(composed: DictConfig, hydra: DictConfig, folder: Path) -> Summary:
    is_sweep = hydra.mode == RunMode.MULTIRUN
    try:
        # Before torch is imported, which takes seconds: a typo need not wait for that.
        config = typed_config(composed)
        _check_mode(config, is_sweep)
        from harness.machine import spare_the_collector
        from harness.runs.run import run

        raise_from_now_on()
        spare_the_collector()
        return run(_request(config, composed, hydra, folder))
    except Exception as error:
        is_users = isinstance(error, UserError)
        log.error("%s", error, exc_info=None if is_users else error)
        if is_sweep:
            from harness.runs.folder import record_failure

            record_failure(folder, error, hydra.runtime.choices.scheduler, composed.get("seed"))
        if is_sweep or not is_users:
            _open_log()
        if not is_sweep:
            sys.exit(2 if is_users else 1)
        from harness.machine import forget

        forget(error)  # Hydra keeps it for the rest of the sweep
        raise
    finally:
        if not is_sweep:
            remove_unused(folder)


def _request(config: Config, composed: DictConfig, hydra: DictConfig, folder: Path) -> Request:
    """What the job's composition asks for."""
    from harness.runs.request import Request

    # Not the present one where hydra.job.chdir is set, or where a launcher runs its jobs in another folder.
    start = Path(hydra.runtime.cwd)
    config = _with_images_from(start, config)
    is_sweep = hydra.mode == RunMode.MULTIRUN
    overrides = tuple(text for text in hydra.overrides.task if not text.startswith("resume="))
    setting = config.resume or ("auto" if is_sweep else None)
    names_folder = setting not in (None, "auto", "never")
    if names_folder:
        check_agreement(folder, config, overrides)
    save_at = boundaries_to_save(start / hydra.sweep.dir, hydra.overrides.task) if is_sweep else ()
    return Request(
        config,
        hydra.runtime.choices.scheduler,
        folder,
        resume=names_folder or (setting == "auto" and holds_run(folder)),
        sharing=None if setting == "never" else _sharing(config, setting is not None, save_at, start),
        overrides=overrides,
        entered=lambda: _entered(folder, composed, overrides),
    )


def _entered(folder: Path, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Write what Hydra itself would have written before anybody looked whose folder it is."""
    records = {"config": composed, "hydra": HydraConfig.instance().cfg, "overrides": list(overrides)}
    (folder / HYDRA).mkdir(exist_ok=True)
    for name, record in records.items():
        write_text(folder / HYDRA / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(record)), durable=False)
    _open_log()


def _open_log() -> None:
    """Let the job's log file have what was logged so far, and from now on all of it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, JobLogHandler):
            handler.write_from_now_on()


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
        Interrupted: after a signal, when it is said what goes on from here.
    """
    # Hydra then raises what went wrong, in place of printing it and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    again = shlex.join(["python", "train.py", *sys.argv[1:]])
    with interruptible(lambda name: _say_what_goes_on(name, again)):
        try:
            sys.argv[1:] = resumed(continued(CommandLine.parse(sys.argv[1:]))).with_short_names().arguments
            _run_hydra(entry)
        except Interrupted as interrupted:
            if SweepPlanner.folder is not None or not interrupted.is_told:
                _say_what_goes_on(interrupted.signal_name, again)
            raise


def _run_hydra(entry: Callable[[], Any]) -> None:
    completed = False
    try:
        with refusals_told(sys.argv[1:]):
            entry()
        completed = True
    except OSError as error:  # of Hydra's own files and folders; those of runs are told by them
        if error.filename is None:
            raise
        raise UserError(f"{os.fsdecode(error.filename)}: cannot be written: {error.strerror}") from None
    finally:
        report_on_sweep(completed)


def _say_what_goes_on(signal_name: str, again: str) -> None:
    """What a signal does to a command, `again`, where no run says it itself; a folder that was not used yet goes."""
    if SweepPlanner.folder is not None:
        kept = f"what is trained is kept in {SweepPlanner.folder}; the same command goes on"
        print(f"stopped by {signal_name}: {kept}: {again}", file=sys.stderr)
        return
    print(f"stopped by {signal_name} before anything was trained; the same command begins: {again}", file=sys.stderr)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:
        remove_unused(Path(HydraConfig.get().runtime.output_dir))


def _with_images_from(start: Path, config: Config) -> Config:
    """The configuration for a job that does not run in the folder where the user typed a relative `data.root`."""
    root = getattr(config.data, "root", None)
    if root is None or start == Path.cwd():
        return config
    data = config.data.model_copy(update={"root": str(start / root)})
    return config.model_copy(update={"data": data})
