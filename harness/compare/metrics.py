"""The metrics that runs are compared by: how a run has each, how it is written, and where it is shown.

A new one is one more value in `METRICS`, and a word in the text of `harness.report.exports`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log
from statistics import fmean, median

from harness.compare.load import Run
from harness.record import EpochRow

REPORT, TERMINAL, APART = "report", "terminal", "apart"  # the tables of results; the last is of groups kept apart
EVERY_TABLE = (REPORT, TERMINAL, APART)
SUSTAINED = 3  # a target is met by the mean over so many epochs
_ROUNDING = 1e-9  # by so much the mean of equal accuracies may be below them


@dataclass(frozen=True)
class Unit:
    """How values are written: `scale` times the value, with `digits` decimals; `suffix` follows a difference's size."""

    name: str
    scale: float = 1.0
    digits: int = 1
    suffix: str = ""


ACCURACY, LOSS = Unit("%", 100.0, 2, " points"), Unit("nats", digits=4)
EPOCHS, SECONDS, SPEED = Unit("epochs"), Unit("seconds"), Unit("images/s", digits=0)


@dataclass(frozen=True)
class Curve:
    """A number that every epoch has, a field of `EpochRow`, and the title of its picture."""

    key: str
    title: str
    unit: Unit


CURVES = (
    Curve("train_loss", "Training loss", LOSS),
    Curve("train_accuracy", "Training accuracy", ACCURACY),
    Curve("val_loss", "Validation loss", LOSS),
    Curve("val_accuracy", "Validation accuracy", ACCURACY),
)


@dataclass(frozen=True)
class Metric:
    """A number of a whole run: `of_run` gives it for a run, which need not have finished, and a target accuracy.

    `key` is its name in files, `title` the head of its column in `tables`. Accuracies are fractions, whatever their
    unit; None stands for what a run does not have. `to_target` marks what only a run that met the target has.
    """

    key: str
    title: str
    unit: Unit
    of_run: Callable[[Run, float | None], float | None]
    tables: tuple[str, ...] = (REPORT,)
    to_target: bool = False
    in_runs_csv: bool = True


@dataclass(frozen=True, kw_only=True)
class Compared(Metric):
    """A metric whose differences from the baseline are tested.

    It is `name` in sentences and `short` in the table; `measured` says in words what a difference is counted in.
    """

    name: str
    short: str
    measured: str
    higher_is_better: bool


def _late(run: Run) -> list[EpochRow]:
    """The last tenth of the planned epochs, at least two, as far as there are lines of them."""
    if run.epochs is None:
        return []
    start = run.epochs - max(2, ceil(run.epochs / 10))
    return [epoch for epoch in run.log if epoch.epoch >= start]


def _late_accuracy(run: Run) -> float | None:
    known = [epoch.val_accuracy for epoch in _late(run) if epoch.val_accuracy is not None]
    return fmean(known) if known else None


def _flattery(run: Run) -> float | None:
    late = _late_accuracy(run)
    return None if late is None or run.best_val_accuracy is None else run.best_val_accuracy - late


def diverged(run: Run) -> bool:
    """Whether a loss of the last epochs is no number, or they are worse than guessing: in loss, and little better in
    accuracy, since a network that is sure of its few errors can have a high loss.
    """
    losses, accuracy = [epoch.val_loss for epoch in _late(run)], _late_accuracy(run)
    known = [loss for loss in losses if loss is not None]
    if not known or len(known) < len(losses):
        return True
    if run.classes is None or accuracy is None:
        return False
    return fmean(known) > log(run.classes) and accuracy < (1 + 1 / run.classes) / 2


def _spread(run: Run) -> float | None:
    late = [epoch.val_accuracy for epoch in _late(run) if epoch.val_accuracy is not None]
    return max(late) - min(late) if len(late) > 1 else None


def _late_loss(run: Run) -> float | None:
    """That of guessing for a run that diverged: leaving it out would flatter its schedule, and a mean would be its."""
    if diverged(run):
        return None if run.classes is None else log(run.classes)
    return fmean(epoch.val_loss for epoch in _late(run) if epoch.val_loss is not None)


def _throughput(run: Run) -> float | None:
    """Median images per second over the epochs that the run trained itself, None if it reused them all."""
    speeds = [e.images_per_second for e in run.log if not e.reused and e.images_per_second is not None]
    return median(speeds) if speeds else None


def running_means(run: Run) -> list[tuple[int, float]]:
    """Epochs trained so far and the mean validation accuracy of the last `SUSTAINED` of them (of all planned ones in a
    shorter run), where these have one."""
    width = min(SUSTAINED, run.epochs or SUSTAINED)
    means = []
    for end in range(width, len(run.log) + 1):
        known = [row.val_accuracy for row in run.log[end - width : end] if row.val_accuracy is not None]
        if len(known) == width:
            means.append((run.log[end - 1].epoch + 1, fmean(known)))
    return means


def _epochs_to(run: Run, target: float | None) -> int | None:
    """Epochs trained until the mean of the last three first met the target, None if it never did.

    It can be known when it happens and does not depend on how long a run goes on, as the epoch from which on the
    target is never missed again would; and one lucky epoch does not meet it.
    """
    if target is None:
        return None
    return next((epochs for epochs, mean in running_means(run) if mean >= target - _ROUNDING), None)


def _seconds_to(run: Run, target: float | None) -> float | None:
    """How long it took to train so far, alone, as if nothing had been reused; None if that is not recorded.

    Of older runs training and validation alone are recorded.
    """
    needed = _epochs_to(run, target)
    if needed is None:
        return None
    epochs = [epoch for epoch in run.log if epoch.epoch < needed]
    whole = [epoch.wall_seconds for epoch in epochs]
    seconds = [epoch.seconds for epoch in epochs] if None in whole else whole
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == needed else None


# A schedule that never settles ends wherever its last epoch happens to throw it: a single epoch says little of the
# level it moves at, the mean of the last ones does. The first of the two is what schedules are ranked by.
LATE_ACCURACY = Compared(
    "late_val_accuracy",
    "Late val acc. %",
    ACCURACY,
    lambda run, _: _late_accuracy(run),
    EVERY_TABLE,
    name="late validation accuracy",
    short="late accuracy",
    measured="percentage points of late accuracy",
    higher_is_better=True,
)
LATE_LOSS = Compared(
    "late_val_loss",
    "Late val loss",
    LOSS,
    lambda run, _: _late_loss(run),
    EVERY_TABLE,
    name="late validation loss",
    short="late loss",
    measured="nats of late loss",
    higher_is_better=False,
)
FINAL_ACCURACY = Metric(
    "final_val_accuracy", "Final val acc. %", ACCURACY, lambda run, _: run.final.val_accuracy if run.final else None,
    EVERY_TABLE,
)  # fmt: skip
FINAL_LOSS = Metric(
    "final_val_loss", "Final val loss", LOSS, lambda run, _: run.final.val_loss if run.final else None, (REPORT, APART)
)
TEST_ACCURACY = Metric("test_accuracy", "Test acc. %", ACCURACY, lambda run, _: run.test_accuracy, (REPORT, TERMINAL))
EPOCHS_TO_TARGET = Metric("epochs_to_target", "Epochs to target", EPOCHS, _epochs_to, to_target=True)
METRICS = (
    LATE_ACCURACY,
    LATE_LOSS,
    FINAL_ACCURACY,
    FINAL_LOSS,
    Metric("best_val_accuracy", "Best val acc. %", ACCURACY, lambda run, _: run.best_val_accuracy, (REPORT, APART)),
    Metric("flattery", "Best less late, points", ACCURACY, lambda run, _: _flattery(run), in_runs_csv=False),
    TEST_ACCURACY,
    Metric("test_loss", "Test loss", LOSS, lambda run, _: run.test_loss, tables=()),
    EPOCHS_TO_TARGET,
    Metric("seconds_to_target", "Seconds to target", SECONDS, _seconds_to, to_target=True),
    Metric("best_epoch", "Best epoch", EPOCHS, lambda run, _: run.best_epoch),
    Metric("spread", "Late spread, points", ACCURACY, lambda run, _: _spread(run), in_runs_csv=False),
    Metric("images_per_second", "Images/s", SPEED, lambda run, _: _throughput(run)),
)
COMPARED = tuple(metric for metric in METRICS if isinstance(metric, Compared))
