"""What a run leaves in its folder, and what an earlier one left there.

All that write raise `UserError` when a file cannot be written.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.config import AUTO, Config, Role, parse_config
from harness.errors import UserError, error_text, plural
from harness.files import (
    changed,
    read_file,
    read_object,
    read_sealed,
    remove_leftovers,
    sha256_of,
    write_json,
    write_sealed,
)
from harness.machine import versions
from harness.record import (
    CHECKPOINTS,
    COMPLETED,
    CURVES_PICTURE,
    EVENTS,
    FAILED,
    HYDRA,
    METRICS_FILE,
    MODEL_FILE,
    PLAN_PICTURE,
    PROFILE,
    REQUEST_FILE,
    RUN_FILE,
    RUN_FILES,
    SUMMARY_FILE,
    RequestRecord,
    RunRecord,
    Summary,
    holds_run,
)
from harness.runs.lock import held
from harness.runs.pictures import draw
from harness.runs.request import Request, Training
from harness.views.tensorboard import opening_lines

log = logging.getLogger(__name__)


def record_failure(folder: Path, error: BaseException, scheduler: str, seed: int | None) -> None:
    """Write a summary with status `failed`, unless a run was begun there."""
    with held(folder):
        if not holds_run(folder):
            summary = Summary(status=FAILED, scheduler=scheduler, seed=seed, error=error_text(error))
            write_sealed(folder / SUMMARY_FILE, summary.content())


_FILES = (*RUN_FILES, REQUEST_FILE, MODEL_FILE, PLAN_PICTURE, CURVES_PICTURE)
_FOLDERS = (CHECKPOINTS, HYDRA, PROFILE)


def check_places(folder: Path) -> None:
    """Refuse a folder in which a file of a run is none, or its log or a folder of it a link, as a given one may hold.

    What is written to through a link, or deleted, might be anything of the user's. Other files are replaced, links too.

    Raises:
        UserError: naming what lies there.
    """
    for path in sorted(folder.iterdir()):
        is_log = path.suffix == ".log"
        if is_log or path.name in _FILES or path.name.startswith(EVENTS):
            if (is_log and path.is_symlink()) or not (path.is_symlink() or path.is_file()):
                raise UserError(f"{path}: is a link, or no file; must be a file of this run alone, or be removed")
        elif path.name in _FOLDERS and (path.is_symlink() or not path.is_dir()):
            raise UserError(f"{path}: is a link, or no folder; must be a folder of this run alone, or be removed")


def enter(request: Request) -> None:
    """Make the folder this run's: what it is asked for is written before anything else, then what is stale goes."""
    record = RequestRecord(scheduler=request.scheduler_name, overrides=request.overrides, config=request.config.plain())
    write_sealed(request.folder / REQUEST_FILE, asdict(record))
    remove_leftovers(request.folder, *(request.folder / name for name in (CHECKPOINTS, HYDRA)))
    # A run that goes on has no result until it ends again.
    (request.folder / SUMMARY_FILE).unlink(missing_ok=True)
    request.entered()


def write_record(training: Training) -> None:
    """Write run.json: what the run is made from."""
    request, plan, dataset = training.request, training.plan, training.dataset
    record = RunRecord(
        scheduler=request.scheduler_name,
        scheduler_target=request.config.scheduler.target,
        scheduler_arguments=request.config.scheduler.arguments,
        seed=request.config.seed,
        epochs=request.config.epochs,
        groups=plan.groups,
        plan_changes=[{"epoch": c.epoch, "lr": plan.by_group(c.epoch)} for c in plan.changes],
        identity=training.identity,
        config=request.config.plain(),
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        images={"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)},
    )
    write_json(request.folder / RUN_FILE, asdict(record))


# What a report reads of a run, and what is used of it elsewhere.
_SEALED = (REQUEST_FILE, RUN_FILE, METRICS_FILE, MODEL_FILE)


def write_summary(training: Training, status: str, **results: Any) -> Summary:
    """Write summary.json, a run's last file, with the digests of what a completed run leaves."""
    config, folder = training.request.config, training.request.folder
    files = {name: sha256_of(folder / name) for name in _SEALED} if status == COMPLETED else None
    summary = Summary.of(
        training.rows,
        status=status,
        scheduler=training.request.scheduler_name,
        seed=config.seed,
        epochs=config.epochs,
        device=training.compute.device_name,
        versions=versions(),
        files=files,
        wall_seconds=sum(row.wall_seconds or 0.0 for row in training.rows) + training.lap(),
        **results,
    )
    write_sealed(folder / SUMMARY_FILE, summary.content())
    return summary


def leave_behind(training: Training, status: str, error: BaseException | None = None) -> None:
    """Write summary and pictures of a run that did not complete, as far as they can be written."""
    try:
        write_summary(training, status, error=None if error is None else error_text(error))
        draw(training)
    except UserError as problem:
        log.warning("%s", problem)


def log_summary(summary: Summary, folder: Path) -> None:
    """The closing lines of a completed run."""
    final, best = f"{summary.final_val_accuracy:.2%}", f"{summary.best_val_accuracy:.2%}"
    reused = f", of which {summary.epochs_reused} were reused" if summary.epochs_reused else ""
    log.info("validation accuracy: final %s, best %s in epoch %s", final, best, summary.best_epoch)
    log.info("test accuracy: %s (final weights)", f"{summary.test_accuracy:.2%}")
    taken = f"{summary.seconds:.1f} s" if summary.wall_seconds is None else f"{summary.wall_seconds:.1f} s in all"
    log.info("time: %s for %s epochs on %s%s", taken, summary.epochs, summary.device, reused)
    log.info("files: %s", folder)
    for line in opening_lines(folder, "scalars"):
        log.info("%s", line)


def finished_summary(folder: Path, config: Config) -> Summary | None:
    """The summary of a completed run with these very settings, if the folder holds one and nothing of it is lost."""
    try:
        values = read_sealed(folder / SUMMARY_FILE, since="files") or {}
        summary = TypeAdapter(Summary).validate_json(json.dumps(values), strict=True)
        begun = parse_config(read_object(folder / RUN_FILE)["config"])
    except (ValidationError, KeyError, UserError):
        return None
    if config.batch_size == AUTO:  # what it came to then
        config = config.model_copy(update={"batch_size": begun.batch_size})
    # On another device a completed run is no less completed.
    same = begun.plain(Role.NO_BITS, Role.MACHINE) == config.plain(Role.NO_BITS, Role.MACHINE)
    has_results = None not in (summary.final_val_accuracy, summary.best_val_accuracy, summary.test_accuracy)
    if summary.status != COMPLETED or not (same and has_results):
        return None
    if lost := changed(folder, summary.files or {}):
        log.warning("%s: damaged or gone since the run ended; restored from its checkpoint", ", ".join(lost))
        return None
    return summary


def log_resumption(folder: Path, config: Config, epoch: int) -> None:
    """Before which epoch a run goes on, what of its schedule has changed, and how many epochs it trains again."""
    change = _change_of_schedule(folder, config)
    if epoch == 0:
        log.info("%sno checkpoint to continue from: starting at epoch 0", change)
        return
    try:
        retrained = read_file(folder / METRICS_FILE).count(b"\n") - epoch
    except OSError:
        retrained = 0
    after = f", {plural(retrained, 'epoch')} retrained" if retrained > 0 else ""
    log.info("%scontinuing from epoch %d%s", change, epoch, after)


def _change_of_schedule(folder: Path, config: Config) -> str:
    """What of the schedule differs from that of the run in the folder, as the beginning of a sentence, or nothing."""
    record = read_object(folder / RUN_FILE)
    target, before = record.get("scheduler_target"), record.get("scheduler_arguments")
    if not isinstance(target, str) or not isinstance(before, dict):
        return ""
    now = config.scheduler.arguments
    if target != config.scheduler.target:
        old, new = (path.rpartition(".")[2] for path in (target, config.scheduler.target))
        return f"scheduler changed from {old} to {new}: "
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = ", ".join(f"{name} changed from {before.get(name)} to {now.get(name)}" for name in changed)
    return f"{changes}: " if changes else ""
