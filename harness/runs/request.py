"""What a run is asked for, and the live objects that it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.data.dataset import Dataset
from harness.data.loader import Loader
from harness.files import WriteBehind
from harness.record import EpochRow, best
from harness.runs.checkpoints import Checkpoints
from harness.stages.walk import Sharing, Walk
from harness.training.devices import Compute
from harness.training.learner import Learner
from harness.training.plan import LrPlan
from harness.training.state import TrainState


@dataclass(frozen=True)
class Request:
    """What to run: the configuration, the schedule's name, the folder for the results, and whether that folder
    holds a run to continue.

    Without `sharing` no epoch is shared. `overrides` are those of train.py that gave the configuration. `entered` is
    called once the folder is found to be this run's; before, nothing there is changed.
    """

    config: Config
    scheduler_name: str
    folder: Path
    resume: bool
    sharing: Sharing | None = None
    overrides: tuple[str, ...] = ()
    entered: Callable[[], None] = lambda: None


@dataclass
class Training:
    """The live objects of a run.

    Checkpoints and shared states are written by `behind`; `best_state` is the best epoch and the state after
    it while no file has that; `since` is when what is in no row's `wall_seconds` yet began
    (`perf_counter`).
    """

    request: Request
    compute: Compute
    dataset: Dataset
    loader: Loader
    learner: Learner
    plan: LrPlan
    identity: dict[str, Any]
    checkpoints: Checkpoints
    behind: WriteBehind
    walk: Walk
    rows: list[EpochRow]
    since: float
    best_state: tuple[int, Callable[[], TrainState]] | None = None

    def lap(self) -> float:
        """Seconds since the last call, or since the run began."""
        before, self.since = self.since, time.perf_counter()
        return self.since - before

    @property
    def best(self) -> EpochRow:
        """The trained epoch with the highest validation accuracy; the first of equals."""
        row = best(self.rows)
        assert row is not None
        return row
