"""What a run says of itself when it is over, and whether a folder holds one that is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.identity import plain

RUN, SUMMARY, METRICS = "run.json", "summary.json", "metrics.jsonl"

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
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
        begun: dict[str, Any] = json.loads((folder / RUN).read_text())["config"]
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
        record = json.loads((folder / RUN).read_text())
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
        return (folder / METRICS).read_bytes().count(b"\n")
    except OSError:
        return 0


def _class(target: str) -> str:
    return target.rpartition(".")[2]
