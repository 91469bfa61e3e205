"""What accuracy a total number of epochs buys: runs that differ in nothing else but a schedule made to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.compare_groups import Group
from harness.compare_results import Result, decay_factors
from harness.compare_stats import Estimate

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
