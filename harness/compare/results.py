"""What each variant achieved: results over its runs, mean curves, what each decay of the rate did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean, median

import numpy as np

from harness.compare.groups import Group, Variant
from harness.compare.load import Run
from harness.compare.stats import Estimate, estimate, t_quantile
from harness.record import EpochRow, finite

DECAY_FACTOR = 0.5  # a drop at least this deep counts as a decay; a smooth schedule has none
EPOCHS_AFTER = 3  # at most so many epochs at the new rate are waited for before its effect is read


@dataclass(frozen=True)
class Band:
    """Mean and 95 % interval of a metric over runs, by epoch; `low` and `high` are None where only one run
    is.
    """

    epochs: tuple[int, ...]
    n: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True)
class Result:
    """What one variant achieved, each as an estimate over its runs; `compare` explains each."""

    variant: Variant
    final_val_accuracy: Estimate
    best_val_accuracy: Estimate
    final_val_loss: Estimate
    late_val_loss: Estimate
    test_accuracy: Estimate
    test_loss: Estimate
    best_epoch: Estimate
    spread: Estimate
    images_per_second: Estimate
    epochs_to_target: Estimate
    seconds_to_target: Estimate
    reached: int

    @property
    def label(self) -> str:
        """The variant's label."""
        return self.variant.label


@dataclass(frozen=True)
class Decay:
    """What happened around one drop of a variant's learning rate; `compare` explains each."""

    label: str
    epoch: int
    factor: float
    epochs_after: int
    accuracy_before: Estimate
    accuracy_after: Estimate
    accuracy_change: Estimate
    loss_before: Estimate
    loss_after: Estimate
    loss_change: Estimate
    baseline_accuracy_change: Estimate
    baseline_loss_change: Estimate


def aggregate(runs: Sequence[Run], metric: str) -> Band:
    """Mean and 95 % interval of one of `METRICS` over the runs, for every epoch that any of them has."""
    length = max((run.log[-1].epoch + 1 for run in runs if run.log), default=0)
    values = np.full((len(runs), length), np.nan)
    for row, run in enumerate(runs):
        for epoch in run.log:
            value = getattr(epoch, metric)
            values[row, epoch.epoch] = np.nan if value is None else value
    counts = np.sum(~np.isnan(values), axis=0)
    kept = np.flatnonzero(counts)
    values, n = values[:, kept], counts[kept]
    mean = np.nansum(values, axis=0) / n
    variance = np.nansum((values - mean) ** 2, axis=0) / np.maximum(n - 1, 1)
    quantiles = np.array([t_quantile(int(count)) if count > 1 else np.nan for count in n])
    half = quantiles * np.sqrt(variance / n)
    return Band(
        tuple(kept.tolist()),
        tuple(n.tolist()),
        tuple(mean.tolist()),
        tuple(map(finite, (mean - half).tolist())),
        tuple(map(finite, (mean + half).tolist())),
    )


def values_by_seed(variant: Variant, metric: str) -> dict[int, float]:
    """A metric by seed, without runs where it is not finite: `final_val_accuracy`, `final_val_loss` or
    `late_val_loss`.
    """
    name = metric.removeprefix("final_")
    late = metric == "late_val_loss"
    values = {run.seed: _late_loss(run) if late else getattr(run.final, name) for run in variant.runs}
    return {seed: value for seed, value in values.items() if seed is not None and value is not None}


def _over(runs: Iterable[Run], value: Callable[[Run], float | None]) -> Estimate:
    return estimate([known for known in map(value, runs) if known is not None])


def ranked(variants: Sequence[Variant], target: float | None) -> tuple[Result, ...]:
    """Results by mean final validation accuracy; equal ones by validation loss, then by label."""

    def rank(result: Result) -> tuple[float, float, str]:
        accuracy, loss = result.final_val_accuracy.mean, result.final_val_loss.mean
        return -(accuracy or 0.0), float("inf") if loss is None else loss, result.label

    return tuple(sorted((_result(variant, target) for variant in variants), key=rank))


def _result(variant: Variant, target: float | None) -> Result:
    runs = variant.runs
    met = {run.name: _first_at(run, target) for run in runs}
    return Result(
        variant=variant,
        final_val_accuracy=estimate(list(values_by_seed(variant, "final_val_accuracy").values())),
        best_val_accuracy=_over(runs, lambda run: run.best_val_accuracy),
        final_val_loss=estimate(list(values_by_seed(variant, "final_val_loss").values())),
        late_val_loss=estimate(list(values_by_seed(variant, "late_val_loss").values())),
        test_accuracy=_over(runs, lambda run: run.test_accuracy),
        test_loss=_over(runs, lambda run: run.test_loss),
        best_epoch=_over(runs, lambda run: run.best_epoch),
        spread=_over(runs, _spread),
        images_per_second=_over(runs, throughput),
        epochs_to_target=_over(runs, lambda run: epochs_to(run, target)),
        seconds_to_target=_over(runs, lambda run: seconds_to(run, target)),
        reached=sum(epoch is not None for epoch in met.values()),
    )


def _late(run: Run) -> list[EpochRow]:
    """The last tenth of the planned epochs, at least two, as far as there are lines of them."""
    assert run.epochs is not None
    start = run.epochs - max(2, ceil(run.epochs / 10))
    return [epoch for epoch in run.log if epoch.epoch >= start]


def _spread(run: Run) -> float | None:
    late = [epoch.val_accuracy for epoch in _late(run) if epoch.val_accuracy is not None]
    return max(late) - min(late) if len(late) > 1 else None


def _late_loss(run: Run) -> float | None:
    """None where an epoch's loss is not finite: leaving it out would flatter a run that diverged."""
    losses = [epoch.val_loss for epoch in _late(run)]
    known = [loss for loss in losses if loss is not None]
    return fmean(known) if known and len(known) == len(losses) else None


def throughput(run: Run) -> float | None:
    """Median images per second over the epochs that the run trained itself, None if it reused them all."""
    rates = [e.images_per_second for e in run.log if not e.reused and e.images_per_second is not None]
    return median(rates) if rates else None


def _first_at(run: Run, target: float | None) -> int | None:
    if target is None:
        return None
    met = (e.epoch for e in run.log if e.val_accuracy is not None and e.val_accuracy >= target)
    return next(met, None)


def epochs_to(run: Run, target: float | None) -> int | None:
    """Epochs trained until the validation accuracy first met the target, None if it never did."""
    first = _first_at(run, target)
    return None if first is None else first + 1


def seconds_to(run: Run, target: float | None) -> float | None:
    """The recorded seconds of those epochs, reused ones included; None if any is not recorded."""
    needed = epochs_to(run, target)
    if needed is None:
        return None
    seconds = [e.seconds for e in run.log if e.epoch < needed and e.seconds is not None]
    return sum(seconds) if len(seconds) == needed else None


def rates(variant: Variant) -> dict[int, Mapping[str, float]]:
    """The learning rate of each group by epoch, from the run whose log is most complete."""
    log = max((run.log for run in variant.runs), key=len)
    return {epoch.epoch: epoch.lr for epoch in log}


def decay_factors(variant: Variant) -> dict[int, float]:
    """Epochs that start with a decay, and the smallest factor by which a group's rate fell there."""
    plan = rates(variant)
    factors = {}
    for epoch, lr in plan.items():
        before = plan.get(epoch - 1, {})
        ratios = [lr[group] / before[group] for group in lr if before.get(group, 0.0) > 0.0]
        if ratios and min(ratios) <= DECAY_FACTOR * (1 + 1e-9):
            factors[epoch] = min(ratios)
    return factors


def decays(variant: Variant, baseline: Variant | None) -> list[Decay]:
    """What each decay of the variant did, beside what the baseline did over the same epochs."""
    factors = decay_factors(variant)
    starts = sorted(factors)
    ends = [*starts[1:], variant.runs[0].epochs or 0]
    others = () if baseline is None or baseline is variant else baseline.runs
    return [
        _decay(variant, others, epoch, factors[epoch], min(EPOCHS_AFTER, end - epoch))
        for epoch, end in zip(starts, ends, strict=False)
    ]


def _decay(variant: Variant, others: Sequence[Run], epoch: int, factor: float, after: int) -> Decay:
    accuracy = _around(variant.runs, "val_accuracy", epoch - 1, epoch + after - 1)
    loss = _around(variant.runs, "val_loss", epoch - 1, epoch + after - 1)
    other_accuracy = _around(others, "val_accuracy", epoch - 1, epoch + after - 1)
    other_loss = _around(others, "val_loss", epoch - 1, epoch + after - 1)
    return Decay(
        label=variant.label,
        epoch=epoch,
        factor=factor,
        epochs_after=after,
        accuracy_before=estimate([before for before, _ in accuracy]),
        accuracy_after=estimate([later for _, later in accuracy]),
        accuracy_change=_change(accuracy),
        loss_before=estimate([before for before, _ in loss]),
        loss_after=estimate([later for _, later in loss]),
        loss_change=_change(loss),
        baseline_accuracy_change=_change(other_accuracy),
        baseline_loss_change=_change(other_loss),
    )


def _around(runs: Sequence[Run], metric: str, before: int, after: int) -> list[tuple[float, float]]:
    """The metric at the end of two epochs, of the runs that have both."""
    pairs = []
    for run in runs:
        values = {epoch.epoch: getattr(epoch, metric) for epoch in run.log if epoch.epoch in (before, after)}
        if values.get(before) is not None and values.get(after) is not None:
            pairs.append((values[before], values[after]))
    return pairs


def _change(pairs: Sequence[tuple[float, float]]) -> Estimate:
    return estimate([later - before for before, later in pairs])


_FEWEST = 3  # lengths that make a curve


@dataclass(frozen=True)
class BudgetPoint:
    """One length of training under one schedule; `decays` are the first epochs at rates at most half as high."""

    label: str
    epochs: int
    seeds: int
    decays: tuple[int, ...]
    final_val_accuracy: Estimate
    final_val_loss: Estimate
    test_accuracy: Estimate


def budget_curve(groups: Sequence[tuple[Group, Sequence[Result]]]) -> tuple[BudgetPoint, ...]:
    """The points by label and epochs; none unless some schedule was trained for three lengths or more.

    `groups` begins with the main one. Of the others those count that differ from it in the number of epochs alone.
    """
    alike = [pair for pair in groups if set(pair[0].differs) <= {"epochs"}]
    points = [_point(group, result) for group, results in alike for result in results]
    lengths: dict[str, set[int]] = {}
    for point in points:
        lengths.setdefault(point.label, set()).add(point.epochs)
    kept = [point for point in points if len(lengths[point.label]) >= _FEWEST]
    return tuple(sorted(kept, key=lambda point: (point.label, point.epochs)))


def _point(group: Group, result: Result) -> BudgetPoint:
    return BudgetPoint(
        label=result.label,
        epochs=group.epochs,
        seeds=len(result.variant.runs),
        decays=tuple(sorted(decay_factors(result.variant))),
        final_val_accuracy=result.final_val_accuracy,
        final_val_loss=result.final_val_loss,
        test_accuracy=result.test_accuracy,
    )
