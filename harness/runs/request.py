"""What a run is asked for, and the live objects that it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.data.dataset import Dataset
from harness.data.loader import Loader
from harness.record import EpochRow, best
from harness.runs.checkpoints import Checkpoints
from harness.stages.walk import Sharing, Walk
from harness.training.devices import Compute
from harness.training.learner import Learner
from harness.training.plan import LrPlan


@dataclass(frozen=True)
class Request:
    """What to run: the configuration, the schedule's name, the folder for the results, and whether that folder
    holds a run to continue. `command` is what the user typed, for messages; without `sharing` no epoch is shared."""

    config: Config
    scheduler_name: str
    folder: Path
    resume: bool
    command: tuple[str, ...] = ("python", "train.py")
    sharing: Sharing | None = None


@dataclass
class Training:
    """The live objects of a run."""

    request: Request
    compute: Compute
    dataset: Dataset
    loader: Loader
    learner: Learner
    plan: LrPlan
    identity: dict[str, Any]
    checkpoints: Checkpoints
    walk: Walk
    rows: list[EpochRow]

    @property
    def best(self) -> EpochRow:
        """The trained epoch with the highest validation accuracy; the first of equals."""
        row = best(self.rows)
        assert row is not None
        return row
