"""What each variant achieved: results over its runs and mean curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.compare.groups import Group, Variant
from harness.compare.load import Run
from harness.compare.metrics import (
    EPOCHS_TO_TARGET,
    FINAL_ACCURACY,
    FINAL_LOSS,
    LATE_ACCURACY,
    LATE_LOSS,
    METRICS,
    TEST_ACCURACY,
    Metric,
)
from harness.compare.stats import Estimate, estimate, t_quantile
from harness.record import finite

DECAY_FACTOR = 0.5  # a drop at least this deep counts as a decay; a smooth schedule has none


@dataclass(frozen=True)
class Band:
    """Mean and 95 % interval of a metric over runs, by epoch; `low` and `high` are None where only one run is."""

    epochs: tuple[int, ...]
    n: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True)
class Result:
    """What one variant achieved: `values` holds by metric and seed what its runs have, the metric by its key."""

    variant: Variant
    values: Mapping[str, Mapping[int, float]]
    estimates: Mapping[str, Estimate]

    @property
    def label(self) -> str:
        """The variant's label."""
        return self.variant.label

    @property
    def reached(self) -> int:
        """The number of its runs that met the target accuracy."""
        return self.of(EPOCHS_TO_TARGET).n

    def of(self, metric: Metric) -> Estimate:
        """The mean of a metric over the runs that have it."""
        return self.estimates[metric.key]


def aggregate(runs: Sequence[Run], curve: str) -> Band:
    """Mean and 95 % interval of one of `CURVES`, by its key, for every epoch that any of the runs has."""
    length = max((run.log[-1].epoch + 1 for run in runs if run.log), default=0)
    values = np.full((len(runs), length), np.nan)
    for row, run in enumerate(runs):
        for epoch in run.log:
            value = getattr(epoch, curve)
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


def ranked(variants: Sequence[Variant], target: float | None) -> tuple[Result, ...]:
    """Results by mean late validation accuracy; equal ones by late validation loss, then by label."""

    def rank(result: Result) -> tuple[float, float, str]:
        accuracy, loss = result.of(LATE_ACCURACY).mean, result.of(LATE_LOSS).mean
        return -(accuracy or 0.0), float("inf") if loss is None else loss, result.label

    results = []
    for variant in variants:
        values = {metric.key: values_by_seed(variant, metric, target) for metric in METRICS}
        estimates = {key: estimate(list(by_seed.values())) for key, by_seed in values.items()}
        results.append(Result(variant, values, estimates))
    return tuple(sorted(results, key=rank))


def values_by_seed(variant: Variant, metric: Metric, target: float | None) -> dict[int, float]:
    """A metric by seed, without the runs that do not have it."""
    values = {run.seed: metric.of_run(run, target) for run in variant.runs}
    return {seed: value for seed, value in values.items() if seed is not None and value is not None}


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
    lengths: dict[str, set[int]] = defaultdict(set)
    for point in points:
        lengths[point.label].add(point.epochs)
    kept = [point for point in points if len(lengths[point.label]) >= _FEWEST]
    return tuple(sorted(kept, key=lambda point: (point.label, point.epochs)))


def _point(group: Group, result: Result) -> BudgetPoint:
    return BudgetPoint(
        label=result.label,
        epochs=group.epochs,
        seeds=len(result.variant.runs),
        decays=tuple(sorted(decay_factors(result.variant))),
        final_val_accuracy=result.of(FINAL_ACCURACY),
        final_val_loss=result.of(FINAL_LOSS),
        test_accuracy=result.of(TEST_ACCURACY),
    )
