"""What a run leaves in its folder: the record of what it was made from, summary, and pictures."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.errors import UserError
from harness.files import write_json
from harness.machine import versions
from harness.record import METRICS_FILE, RUN_FILE, SUMMARY_FILE
from harness.runs.request import Training
from harness.stages import identity as identities
from harness.stages.identity import plain
from harness.stages.walk import reused
from harness.training.loop import Recorder

log = logging.getLogger(__name__)

CURVES = "curves.png"


def record_failure(folder: Path, error: BaseException, fields: Mapping[str, Any]) -> None:
    """Write a summary with status `failed`, unless a run already left results there."""
    if not (folder / SUMMARY_FILE).exists() and not (folder / METRICS_FILE).exists():
        write_json(folder / SUMMARY_FILE, {"status": "failed", **fields, "error": error_text(error)})


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
        "versions": versions(),
        **results,
    }
    write_json(training.request.folder / SUMMARY_FILE, summary)
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
    from harness.views.mistakes import picture_tags

    _draw(training)
    curve = (training.request.folder / CURVES).read_bytes()
    test = training.dataset.test
    pictures = picture_tags(test.images, test.labels, recorder.predicted, recorder.losses, training.dataset.classes)
    return {"pictures/learning_curve": curve, **pictures}


def _draw(training: Training) -> None:
    # Imported when the training is over: a run that draws nothing yet need not wait for it.
    from harness.views.curves import plot_curves, plot_plan

    folder, name = training.request.folder, training.request.scheduler_name
    plot_plan(folder / "lr.png", training.plan, f"schedule {name}")
    if training.rows:
        plot_curves(folder / CURVES, training.rows, training.plan, f"{training.request.config.data.name}, {name}")


def error_text(error: BaseException) -> str:
    """An error as a report quotes it."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


# Settings that change no bits of a completed run.
_IMMATERIAL = ("resume", "checkpoint", "stages", "device", "threads", "profile")
_IMMATERIAL_DATA = ("storage", "workers")


def summary_lines(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """The closing lines of a completed run."""
    return [
        f"validation accuracy: final {summary['final_val_accuracy']:.2%}, "
        f"best {summary['best_val_accuracy']:.2%} in epoch {summary['best_epoch']}",
        f"test accuracy: {summary['test_accuracy']:.2%} (final weights)",
        f"time: {summary['seconds']:.1f} s for {summary['epochs']} epochs on {summary['device']}"
        + (f", of which {summary['epochs_reused']} were reused" if summary["epochs_reused"] else ""),
        f"files: {folder}",
        f"curves: tensorboard --logdir {shlex.quote(str(folder))}",
    ]


def finished_summary(folder: Path, config: Config) -> dict[str, Any] | None:
    """The summary of a completed run with these very settings, if the folder holds one."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text())
        begun: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = json.loads(json.dumps(plain(config)))
    for settings in (begun, wanted):
        for name in _IMMATERIAL:
            settings.pop(name, None)
        for name in _IMMATERIAL_DATA:
            settings.get("data", {}).pop(name, None)
    return summary if summary.get("status") == "completed" and begun == wanted else None


def change_of_schedule(folder: Path, config: Config) -> str:
    """What of the schedule differs from that of the run in the folder, as the beginning of a sentence, or nothing."""
    try:
        record = json.loads((folder / RUN_FILE).read_text())
        target, before = record["scheduler_target"], dict(record["scheduler_arguments"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    now = json.loads(json.dumps(config.scheduler.arguments))
    if target != config.scheduler.target:
        return f"scheduler changed from {_class(target)} to {_class(config.scheduler.target)}: "
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "".join(f"{name} changed from {before.get(name)} to {now.get(name)}, " for name in changed)[:-2] + (
        ": " if changed else ""
    )


def epochs_recorded(folder: Path) -> int:
    """How many epochs the folder's metrics.jsonl tells of."""
    try:
        return (folder / METRICS_FILE).read_bytes().count(b"\n")
    except OSError:
        return 0


def _class(target: str) -> str:
    return target.rpartition(".")[2]
