"""What a run leaves in its folder, and what an earlier one left there."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import Config, Role, parse_config
from harness.errors import UserError
from harness.files import read_object, write_json
from harness.machine import versions
from harness.record import (
    COMPLETED,
    CURVES_PICTURE,
    FAILED,
    METRICS_FILE,
    PLAN_PICTURE,
    RUN_FILE,
    SUMMARY_FILE,
    RunRecord,
    Summary,
    holds_run,
)
from harness.runs.request import Training
from harness.views.tensorboard import opening_lines

log = logging.getLogger(__name__)


def record_failure(folder: Path, error: BaseException, scheduler: str, seed: int | None) -> None:
    """Write a summary with status `failed`, unless a run already left results there.

    Raises:
        UserError: when it cannot be written.
    """
    if not holds_run(folder):
        summary = Summary(status=FAILED, scheduler=scheduler, seed=seed, error=error_text(error))
        write_json(folder / SUMMARY_FILE, summary.content())


def write_record(training: Training) -> None:
    """Write run.json: what the run is made from.

    Raises:
        UserError: when it cannot be written.
    """
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
    )
    write_json(request.folder / RUN_FILE, asdict(record))


def write_summary(training: Training, status: str, **results: Any) -> Summary:
    """Write summary.json, a run's last file.

    Raises:
        UserError: when it cannot be written.
    """
    config = training.request.config
    summary = Summary.of(
        training.rows,
        status=status,
        scheduler=training.request.scheduler_name,
        seed=config.seed,
        epochs=config.epochs,
        device=training.compute.device_name,
        versions=versions(),
        **results,
    )
    write_json(training.request.folder / SUMMARY_FILE, summary.content())
    return summary


def leave_behind(training: Training, status: str, error: str | None = None) -> None:
    """Write summary and pictures of a run that did not complete, as far as they can be written."""
    try:
        write_summary(training, status, error=error)
        draw(training)
    except UserError as problem:
        log.warning("%s", problem)


def draw(training: Training) -> None:
    """Write the pictures of the schedule and, where an epoch was trained, of the learning curves.

    Raises:
        UserError: when a file cannot be written.
    """
    # Imported when the training is over: a run that draws nothing yet need not wait for it.
    from harness.views.curves import plot_curves, plot_plan

    folder, name = training.request.folder, training.request.scheduler_name
    plot_plan(folder / PLAN_PICTURE, training.plan, f"schedule {name}")
    if training.rows:
        title = f"{training.request.config.data.name}, {name}"
        plot_curves(folder / CURVES_PICTURE, training.rows, training.plan, title)


def error_text(error: BaseException) -> str:
    """An error as a report quotes it."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def summary_lines(summary: Summary, folder: Path) -> list[str]:
    """The closing lines of a completed run."""
    return [
        f"validation accuracy: final {summary.final_val_accuracy:.2%}, "
        f"best {summary.best_val_accuracy:.2%} in epoch {summary.best_epoch}",
        f"test accuracy: {summary.test_accuracy:.2%} (final weights)",
        f"time: {summary.seconds:.1f} s for {summary.epochs} epochs on {summary.device}"
        + (f", of which {summary.epochs_reused} were reused" if summary.epochs_reused else ""),
        f"files: {folder}",
        *opening_lines(folder, "scalars"),
    ]


def finished_summary(folder: Path, config: Config) -> Summary | None:
    """The summary of a completed run with these very settings, if the folder holds one."""
    try:
        summary = Summary(**read_object(folder / SUMMARY_FILE))
        begun = parse_config(read_object(folder / RUN_FILE)["config"])
    except (TypeError, KeyError, UserError):
        return None
    # On another device a completed run is no less completed.
    same = begun.plain(Role.NO_BITS, Role.MACHINE) == config.plain(Role.NO_BITS, Role.MACHINE)
    return summary if summary.status == COMPLETED and same else None


def change_of_schedule(folder: Path, config: Config) -> str:
    """What of the schedule differs from that of the run in the folder, as the beginning of a sentence, or nothing."""
    record = read_object(folder / RUN_FILE)
    target, before = record.get("scheduler_target"), record.get("scheduler_arguments")
    if not isinstance(target, str) or not isinstance(before, dict):
        return ""
    now = config.scheduler.arguments
    if target != config.scheduler.target:
        return f"scheduler changed from {_class(target)} to {_class(config.scheduler.target)}: "
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = ", ".join(f"{name} changed from {before.get(name)} to {now.get(name)}" for name in changed)
    return f"{changes}: " if changes else ""


def epochs_recorded(folder: Path) -> int:
    """How many epochs the folder's metrics.jsonl tells of."""
    try:
        return (folder / METRICS_FILE).read_bytes().count(b"\n")
    except OSError:
        return 0


def _class(target: str) -> str:
    return target.rpartition(".")[2]
