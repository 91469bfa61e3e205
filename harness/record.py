"""What a run leaves in its folder: the names of its files, an epoch's row, request.json, run.json and summary.json.

Runs write it, comparisons read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.files import read_file

REQUEST_FILE = "request.json"
RUN_FILE, SUMMARY_FILE, METRICS_FILE = "run.json", "summary.json", "metrics.jsonl"
RUN_FILES = (RUN_FILE, SUMMARY_FILE, METRICS_FILE)
SWEEP_FILE = "sweep.json"  # in a sweep's folder: which command it is of, and whether all of its jobs completed
HYDRA = ".hydra"  # the folder of Hydra's own record
EARLIER_OVERRIDES = Path(HYDRA) / "overrides.yaml"  # in place of request.json in runs from before there was one
CHECKPOINTS, PROFILE = "checkpoints", "profile"  # folders
EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
MODEL_FILE, PLAN_PICTURE, CURVES_PICTURE = "model.pt", "lr.png", "curves.png"

COMPLETED, FAILED, INTERRUPTED = STATUSES = ("completed", "failed", "interrupted")


@dataclass(frozen=True)
class EpochRow:
    """One line of metrics.jsonl. Losses in nats, accuracies in [0, 1], seconds; None for absent or not finite.

    `lr` holds by parameter group the rate that this epoch (0-based) was trained with; `reused` says that another run
    trained it. `seconds` are those of training and validation alone; in `wall_seconds`, absent in older runs, are
    those since the epoch before ended, too: for the first one all that came before it, for others checkpoints and
    shared states, but no waiting for another run. Their sum is how long it took to get that far.
    """

    epoch: int
    lr: Mapping[str, float]
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    images_per_second: float | None
    seconds: float | None
    reused: bool
    wall_seconds: float | None = None

    def line(self) -> str:
        """The line of metrics.jsonl."""
        return json.dumps(asdict(self), allow_nan=False) + "\n"


def best(rows: Iterable[EpochRow]) -> EpochRow | None:
    """The epoch with the highest validation accuracy, the first of equals; None where no row has one."""
    scored = [(row.val_accuracy, -row.epoch, row) for row in rows if row.val_accuracy is not None]
    return max(scored, default=(0.0, 0, None), key=lambda entry: entry[:2])[2]


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """request.json, a run's first file, from which it can be continued: what it was asked for.

    `overrides` of train.py and the name of the schedule; `config`, what these came to, with every setting.
    """

    scheduler: str
    overrides: Sequence[str]
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json: what a run is made from, written before its first epoch.

    `groups` are the parameter groups, `plan_changes` the epochs at which their rates change with the new rates.
    `classes`, in the order of the network's outputs, and `mean` and `std` of pixels (0 to 255), by channel, are what
    it takes to use the weights. `images` are how many there are in `train`, `val` and `test`.
    """

    scheduler: str
    scheduler_target: str
    scheduler_arguments: Mapping[str, Any]
    seed: int
    epochs: int
    groups: Sequence[str]
    plan_changes: Sequence[Mapping[str, Any]]
    identity: Mapping[str, Any]
    config: Mapping[str, Any]
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    images: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """summary.json, a run's last file. What a run that did not complete lacks is None; `error` is a failed one's.

    `files` of a completed run are the SHA-256 of what else it left, by the name of the file. `seconds` and
    `wall_seconds` are the sums over its epochs, to the latter comes what followed them.
    """

    status: str
    scheduler: str | None
    seed: int | None
    epochs: int | None = None
    epochs_trained: int = 0
    epochs_reused: int = 0
    final_val_accuracy: float | None = None
    best_val_accuracy: float | None = None
    best_epoch: int | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    weights_sha256: str | None = None
    seconds: float = 0.0
    wall_seconds: float | None = None
    device: str | None = None
    versions: Mapping[str, str | None] | None = None
    files: Mapping[str, str] | None = None
    error: str | None = None

    @classmethod
    def of(cls, rows: Sequence[EpochRow], **facts: Any) -> Summary:
        """What follows from the epochs, beside the other facts."""
        top, reused = best(rows), sum(row.reused for row in rows)
        return cls(
            epochs_trained=len(rows) - reused,
            epochs_reused=reused,
            final_val_accuracy=rows[-1].val_accuracy if rows else None,
            best_val_accuracy=top.val_accuracy if top else None,
            best_epoch=top.epoch if top else None,
            seconds=sum(row.seconds or 0.0 for row in rows),
            **facts,
        )

    def content(self) -> dict[str, Any]:
        """What the file holds."""
        values = asdict(self)
        if self.error is None:
            del values["error"]
        return values


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in the folder, beyond that a sweep noted there why its job was refused."""
    if any((folder / name).exists() for name in (REQUEST_FILE, RUN_FILE, METRICS_FILE)):
        return True
    try:
        return bool(json.loads(read_file(folder / SUMMARY_FILE))["status"] != FAILED)
    except (OSError, ValueError, KeyError, TypeError):
        return (folder / SUMMARY_FILE).exists()


def finite(value: float) -> float | None:
    """The value, or None, JSON's null, for NaN and infinities."""
    return value if math.isfinite(value) else None


def drawable(value: float | None) -> float:
    """The value, or NaN, which a picture leaves out, for None."""
    return math.nan if value is None else value


def flatten(tree: Mapping[str, Any], prefix: str = "", lists: bool = False) -> dict[str, Any]:
    """Nested mappings as one mapping with dotted names; empty ones stay values.

    `lists` says whether a list that holds mappings is taken apart too, by index.
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if lists and isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.", lists)
        else:
            flat[f"{prefix}{name}"] = value
    return flat
