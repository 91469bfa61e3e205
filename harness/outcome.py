"""What a run leaves in its folder: the record of what it was made from, summary, and pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import identity as identities
from harness.errors import UserError
from harness.files import write_json
from harness.predictions import Recorder
from harness.results import METRICS, SUMMARY
from harness.training import Training
from harness.walk import reused

log = logging.getLogger(__name__)

CURVES = "curves.png"


def record_failure(folder: Path, error: BaseException, fields: Mapping[str, Any]) -> None:
    """Write a summary with status `failed`, unless a run already left results there."""
    if not (folder / SUMMARY).exists() and not (folder / METRICS).exists():
        write_json(folder / SUMMARY, {"status": "failed", **fields, "error": error_text(error)})


def run_record(training: Training) -> dict[str, Any]:
    """The content of run.json."""
    request, plan = training.request, training.plan
    return {
        "scheduler": request.scheduler_name,
        "scheduler_target": request.config.scheduler.target,
        "scheduler_arguments": request.config.scheduler.arguments,
        "seed": request.config.seed,
        "epochs": request.config.epochs,
        "groups": plan.groups,
        "plan_changes": [{"epoch": c.epoch, "lr": plan.by_group(c.epoch)} for c in plan.changes],
        "identity": training.identity,
        "config": identities.plain(request.config),
    }


def write_summary(training: Training, status: str, **results: Any) -> dict[str, Any]:
    """Write summary.json, a run's last file; what a run that did not complete lacks is null."""
    rows, config = training.rows, training.request.config
    taken_over = reused(rows)
    summary: dict[str, Any] = {
        "status": status,
        "scheduler": training.request.scheduler_name,
        "seed": config.seed,
        "epochs": config.epochs,
        "epochs_trained": len(rows) - taken_over,
        "epochs_reused": taken_over,
        "final_val_accuracy": rows[-1]["val_accuracy"] if rows else None,
        "best_val_accuracy": training.best["val_accuracy"] if rows else None,
        "best_epoch": training.best["epoch"] if rows else None,
        "test_loss": None,
        "test_accuracy": None,
        "weights_sha256": None,
        "seconds": sum(row["seconds"] for row in rows),
        "device": training.compute.device_name,
        "versions": identities.versions(),
        **results,
    }
    write_json(training.request.folder / SUMMARY, summary)
    return summary


def leave_behind(training: Training, status: str, **results: Any) -> None:
    """Write summary and pictures of a run that did not complete, as far as they can be written."""
    try:
        write_summary(training, status, **results)
        _draw(training)
    except UserError as error:
        log.warning("%s", error)


def pictures(training: Training, recorder: Recorder) -> dict[str, bytes]:
    """Draw the run's files, and return what TensorBoard shows as PNG by tag."""
    from harness.pictures import picture_tags

    _draw(training)
    curve = (training.request.folder / CURVES).read_bytes()
    pictures = picture_tags(training.dataset.test, recorder, training.dataset.classes)
    return {"pictures/learning_curve": curve, **pictures}


def _draw(training: Training) -> None:
    # Imported when the training is over: a run that draws nothing yet need not wait for it.
    from harness.plots import plot_curves, plot_plan

    folder, name = training.request.folder, training.request.scheduler_name
    plot_plan(folder / "lr.png", training.plan, f"schedule {name}")
    if training.rows:
        plot_curves(folder / CURVES, training.rows, training.plan, f"{training.request.config.data.name}, {name}")


def error_text(error: BaseException) -> str:
    """An error as a report quotes it."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def finite(value: float) -> float | None:
    """The value, or None, JSON's null, for NaN and infinities."""
    return value if math.isfinite(value) else None
