"""What the runs of a comparison say: results, paired differences, decays. Reads files only, never the trainer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from statistics import fmean

from harness.compare.groups import Group, Variant, make_groups, natural_order
from harness.compare.load import Loaded, Run
from harness.compare.metrics import COMPARED, FINAL_ACCURACY, Compared
from harness.compare.results import BudgetPoint, Decay, Result, budget_curve, decays, ranked, rates, values_by_seed
from harness.compare.stats import ALPHA, Paired, holm, paired, seeds_needed
from harness.errors import UserError

DRAWN = 7  # schedules whose curves are drawn; more could not be told apart


@dataclass(frozen=True)
class Difference:
    """A variant less the baseline in a metric; `seeds_needed` counts all seeds, not the missing ones."""

    label: str
    metric: Compared
    paired: Paired
    unpaired: tuple[int, ...]
    p_holm: float | None
    seeds_needed: int | None

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the baseline if Holm's p is below 0.05, else `undecided`; or `no claim`."""
        if self.p_holm is None or self.paired.estimate.mean is None:
            return "no claim"
        if self.p_holm >= ALPHA:
            return "undecided"
        return "better" if (self.paired.estimate.mean > 0) == self.metric.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """Everything a report says. `results` are those of the main group, best first; `problems` are sentences on what was
    not sound in the files; `harness.report.exports` explains the rest.
    """

    runs: tuple[Run, ...]
    problems: tuple[str, ...]
    groups: tuple[Group, ...]
    results: tuple[Result, ...]
    apart: tuple[tuple[Group, tuple[Result, ...]], ...]
    target_accuracy: float | None
    target_chosen: str
    baseline: str | None
    baseline_chosen: str
    tests: int
    differences: tuple[Difference, ...]
    decays: tuple[Decay, ...]
    leader: Paired | None
    budget: tuple[BudgetPoint, ...]
    left_out: Mapping[str, str]
    equal_plans: tuple[tuple[str, ...], ...]

    @property
    def main(self) -> Group | None:
        """The group that is compared, None if no run counts."""
        return self.groups[0] if self.groups else None

    @property
    def other_lengths(self) -> tuple[Group, ...]:
        """The groups apart that the budget curve shows."""
        return tuple(g for g, _ in self.apart if set(g.differs) <= {"epochs"}) if self.budget else ()

    @property
    def epochs_trained(self) -> int:
        """Epochs that the runs trained themselves."""
        return sum(run.epochs_trained or 0 for run in self.runs)

    @property
    def epochs_reused(self) -> int:
        """Epochs that runs took over from others through the stage store."""
        return sum(run.epochs_reused or 0 for run in self.runs)

    def leading(self, most: int) -> tuple[Result, ...]:
        """At most so many results: the best, and the baseline wherever it stands."""
        rest = tuple(result for result in self.results[most:] if result.label == self.baseline)
        return (*self.results[: most - len(rest)], *rest)


def compare(loaded: Loaded, baseline: str | None = None, target_accuracy: float | None = None) -> Comparison:
    """Compare the runs of the largest comparable group; `baseline` is a label or the name of a schedule.

    `target_accuracy` is a fraction; by default it follows from the results. `Comparison.leader` is the best
    variant less the runner-up in final validation accuracy. Raises `UserError` for a baseline that is not
    there or not unique, and for a target outside (0, 1].
    """
    if target_accuracy is not None and not 0 < target_accuracy <= 1:
        raise UserError(f"target accuracy {target_accuracy}: give a fraction above 0 and at most 1, such as 0.9")
    groups = make_groups(loaded.runs)
    main = groups[0].variants if groups else ()
    target, target_chosen = _target(main, target_accuracy)
    results = ranked(main, target)
    chosen, baseline_chosen = _baseline(results, baseline)
    differences = _differences(results, chosen)
    apart = tuple((group, ranked(group.variants, target)) for group in groups[1:])
    left_out = {run.name: run.reason for run in loaded.runs if not run.counts}
    left_out.update({name: reason for group in groups for name, reason in group.repeats.items()})
    return Comparison(
        runs=loaded.runs,
        problems=loaded.problems,
        groups=groups,
        results=results,
        apart=apart,
        target_accuracy=target,
        target_chosen=target_chosen,
        baseline=chosen.label if chosen else None,
        baseline_chosen=baseline_chosen,
        tests=sum(difference.p_holm is not None for difference in differences),
        differences=differences,
        decays=tuple(decay for result in results for decay in decays(result, chosen)),
        leader=_paired(results[0], results[1], FINAL_ACCURACY) if len(results) > 1 else None,
        budget=budget_curve([*([(groups[0], results)] if groups else []), *apart]),
        left_out=left_out,
        equal_plans=_equal_plans(results),
    )


def _target(variants: Sequence[Variant], wanted: float | None) -> tuple[float | None, str]:
    if wanted is not None:
        return wanted, "given"
    lowest = min((fmean(values_by_seed(variant, FINAL_ACCURACY, None).values()) for variant in variants), default=0.0)
    target = floor(lowest * 100 + 1e-9) / 100
    if target <= 0:
        return None, "none: no schedule ends above 1 %"
    return target, "the lowest mean final validation accuracy among the schedules, rounded down to a whole percent"


def _baseline(results: Sequence[Result], wanted: str | None) -> tuple[Result | None, str]:
    """The result that the others are compared with, and how it was chosen."""
    labels = ", ".join(result.label for result in results[:20])
    if wanted is not None:
        matches = [result for result in results if result.label == wanted]
        matches = matches or [result for result in results if result.variant.scheduler == wanted]
        if not matches:
            raise UserError(f"baseline {wanted!r}: no such schedule among the compared runs; there is {labels}")
        if len(matches) > 1:
            raise UserError(f"baseline {wanted!r} fits several schedules; give one label of: {labels}")
        return matches[0], "given"
    if len(results) < 2:
        return None, "none: there is no second schedule to compare"
    constants = [result for result in results if result.variant.scheduler == "constant"]
    if len(constants) == 1:
        return constants[0], "the schedule called constant"
    if constants:
        return constants[0], f"the best of {len(constants)} variants of the schedule called constant"
    first = min(results, key=lambda result: natural_order(result.label))
    return first, "the first by name, since there is no constant schedule; name another with --baseline"


def _differences(results: Sequence[Result], baseline: Result | None) -> tuple[Difference, ...]:
    """Every other result against the baseline in every compared metric, the best first.

    All their p values are one Holm family.
    """
    if baseline is None:
        return ()
    others = [result for result in results if result is not baseline]
    pairs = [(other, metric, _paired(other, baseline, metric)) for other in others for metric in COMPARED]
    p_values = [pair.p for _, _, pair in pairs if pair.p is not None]
    corrected = iter(holm(p_values))
    differences = []
    for other, metric, pair in pairs:
        unpaired = {*other.variant.seeds, *baseline.variant.seeds}.difference(pair.seeds)
        p_holm = None if pair.p is None else next(corrected)
        needed = None
        if p_holm is not None and p_holm >= ALPHA:
            needed = seeds_needed(pair.estimate.mean or 0.0, pair.estimate.sd or 0.0, ALPHA / len(p_values))
        differences.append(Difference(other.label, metric, pair, tuple(sorted(unpaired)), p_holm, needed))
    return tuple(differences)


def _paired(result: Result, baseline: Result, metric: Compared) -> Paired:
    return paired(result.values[metric.key], baseline.values[metric.key])


def _equal_plans(results: Sequence[Result]) -> tuple[tuple[str, ...], ...]:
    """Labels of schedules that trained every epoch with the same learning rates, in sets of two and more."""
    plans: dict[str, list[str]] = defaultdict(list)
    for result in results:
        plan = sorted((epoch, sorted(lr.items())) for epoch, lr in rates(result.variant).items())
        plans[repr(plan) + repr(result.variant.settings)].append(result.label)
    return tuple(tuple(labels) for labels in plans.values() if len(labels) > 1)
