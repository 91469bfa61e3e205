"""What a run leaves in its folder: the names of its files and an epoch's row. Runs write it, comparisons read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUN_FILE, SUMMARY_FILE, METRICS_FILE = "run.json", "summary.json", "metrics.jsonl"
RUN_FILES = ("run.json", "summary.json", "metrics.jsonl")
STATUSES = ("completed", "failed", "interrupted")


@dataclass(frozen=True)
class Epoch:
    """One line of metrics.jsonl. Losses in nats, accuracies in [0, 1], seconds; None for absent or not
    finite.

    `lr` holds by parameter group the rate that this epoch (0-based) was trained with.
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


def finite(value: float) -> float | None:
    """The value, or None, JSON's null, for NaN and infinities."""
    return value if math.isfinite(value) else None


OVERRIDES = Path(".hydra") / "overrides.yaml"
