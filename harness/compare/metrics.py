"""The metrics that runs are compared by."""

from __future__ import annotations

METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
