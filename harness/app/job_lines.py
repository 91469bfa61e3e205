"""What the console has of the jobs of a multirun: a line for each when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import plural
from harness.files import read_sealed
from harness.record import SUMMARY_FILE, Summary
from harness.views.console import Job, clock, say, shown_as

LOG = "train.log"  # Hydra names it after the script


@dataclass(frozen=True)
class PlannedJobs:
    """What is known of a multirun before it starts: how many jobs it has, 0 where a sweeper decides on the way, the
    length of their longest title, and by number of job how many of its epochs no job before it trains."""

    count: int = 0
    widest: int = 0
    epochs: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ended:
    """A job that trained in this process: its planned epochs, what it says of itself, and its seconds in all."""

    planned: int
    summary: Summary
    seconds: float


class JobLines:
    """The lines of the jobs that run in this process, one after the other.

    Without a plan, as in the processes of a launcher that starts its own, they neither count nor say what is left.
    """

    def __init__(self, planned: PlannedJobs | None = None) -> None:
        self._planned = planned or PlannedJobs()
        self._ended: list[_Ended] = []

    def show(self, number: int, title: str, folder: Path, run: Callable[[], Summary]) -> None:
        """Run job `number`, from 0 on, in its folder, and print its line; what it raises has its own line."""
        count = self._planned.count
        which = f"job {number + 1:>{len(str(count))}} of {count}" if count else f"job {number + 1}"
        before, began = read_sealed(folder / SUMMARY_FILE), time.perf_counter()
        with shown_as(Job(which, title, folder / LOG)) as job:
            summary = run()
        parts = [f"val {summary.final_val_accuracy:.2%}"]
        if summary.content() == before:
            parts.append("was already completed")
        else:
            seconds = time.perf_counter() - began
            self._ended.append(_Ended(self._planned.epochs.get(number, 0), summary, seconds))
            reused = f" + {summary.epochs_reused} reused" if summary.epochs_reused else ""
            parts += [f"{summary.epochs_trained} epochs{reused}", f"{seconds:.1f} s"]
        if job.warnings:
            parts.append(plural(job.warnings, "warning"))
        if self._ended and number + 1 < count:
            parts.append(f"{clock(self._seconds_left(number))} left")
        say(f"{which} {title:<{self._planned.widest}}  {', '.join(parts)}")

    def _seconds_left(self, number: int) -> float:
        """How long the jobs after this one will take, if each, and each epoch to train, takes as long as so far."""
        summaries = [job.summary for job in self._ended]
        trained = sum(summary.epochs_trained for summary in summaries)
        epochs = trained + sum(summary.epochs_reused for summary in summaries)
        an_epoch = sum(summary.seconds for summary in summaries) / epochs
        a_job = max(0.0, sum(job.seconds for job in self._ended) - an_epoch * trained) / len(self._ended)
        # Some epochs that were to be trained may have been in the store, from an earlier sweep.
        planned = sum(job.planned for job in self._ended)
        to_train = sum(new for job, new in self._planned.epochs.items() if job > number)
        return a_job * (self._planned.count - number - 1) + an_epoch * to_train * (trained / planned if planned else 1)
