"""Small runs, train.py as its user starts it, and ways to read what they leave."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from harness.app.compose import compose_config
from harness.config import Config
from harness.runs import run as run_module
from support.processes import run_script

ROOT = Path(__file__).resolve().parents[2]

# A run of well under a second: 64 images in two uneven batches, 48 + 16.
SMALL = (
    "data=digits", "data.train_size=64", "batch_size=48", "model.channels=[8]", "epochs=4", "device=cpu", "threads=1",
    "scheduler.milestones=[2]", "checkpoint.every=1",
)  # fmt: skip


def train_command(*overrides: str) -> list[str]:
    """The command line of train.py with these overrides, for what a process of its own must show."""
    return [sys.executable, str(ROOT / "train.py"), *overrides]


def train_as_typed(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run train.py in `folder` to its end as its user does."""
    return subprocess.run(train_command(*overrides), cwd=folder, capture_output=True, text=True, check=False)


def train(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """As `train_as_typed`, without waiting for imports."""
    return run_script(ROOT / "train.py", *overrides, folder=folder)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the fields that a clock decides."""
    clocked = ("seconds", "wall_seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows]


@cache
def compose_once(*overrides: str) -> tuple[Config, str]:
    """As `compose_config`, once a test process: Hydra takes as long for it as a small run trains."""
    return compose_config(overrides)


def undrawn() -> AbstractContextManager[Any]:
    """While it is entered, runs of this process draw no pictures: those take four times as long as the training."""
    return mock.patch.multiple(run_module, draw=lambda *_: None, pictures=lambda *_: {})
