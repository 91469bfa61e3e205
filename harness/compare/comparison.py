"""What the runs of a comparison say: results, paired differences, decays. Reads files only, never the trainer.

`comparison.json` is `to_json(compare(load_runs(folders)))`. A number that does not exist or is not finite is
null. Accuracies are fractions, losses nats, times seconds, epochs 0-based; an interval is Student's at 95 %.

    estimate      {n, mean, low, high, sd} over n runs (seeds)
    ranking       "final_val_accuracy": the only metric that anything is ranked on
    target        {accuracy, chosen}: the accuracy for `epochs_to_target` and how it was chosen
    baseline      {label, chosen}: label null when there is nothing to compare
    main          the largest group of comparable runs, null without any: {epochs, identity, schedules}
      schedules   best first: {label, scheduler, target, arguments, settings, seeds, runs, and estimates:
                  final_val_accuracy, best_val_accuracy, final_val_loss, late_val_loss (mean validation
                  loss over the last tenth of the epochs, at least two), test_accuracy, test_loss,
                  best_epoch, images_per_second (a run's median over epochs that it trained itself),
                  spread (highest less lowest validation accuracy of the same epochs),
                  epochs_to_target (trained until the target was first met), seconds_to_target;
                  reached: number of runs that met the target}
    tests         size of the Holm family: every difference below that has a p value
    differences   alternative less baseline, paired by seed: {label, metric (final_val_accuracy or
                  late_val_loss), seeds, differences (by seed), unpaired (seeds that only one has),
                  mean, low, high, sd, p_t, p_permutation, smallest_permutation_p, p_holm, verdict
                  (better, worse, undecided, no claim), seeds_needed (in all, for 80 % power at level
                  0.05 / tests; null if decided or out of reach)}
    leader        the best schedule less the runner-up in final_val_accuracy, chosen after the fact:
                  {label, runner_up, seeds, mean, low, high}; null with fewer than two schedules
    decays        a decay is a learning rate at most half of the epoch before: {label, epoch (first at
                  the new rate), factor, epochs_after (trained at it before looking, at most 3), and
                  estimates: accuracy_before, accuracy_after, accuracy_change, loss_before, loss_after,
                  loss_change, baseline_accuracy_change, baseline_loss_change (over the same epochs)}
    curves        of the schedules in curves.png: {label: {metric: {epochs, n, mean, low, high}}}
    apart         groups that cannot be compared with the main one: {epochs, identity, schedules,
                  differs: {key: [main group's value, this group's]}}
    budget        if a schedule was trained for three lengths or more, in runs that differ in nothing else:
                  {label, epochs, seeds, decays (epochs), and estimates: final_val_accuracy,
                  final_val_loss, test_accuracy} for each label and number of epochs
    sharing       {trained, reused}: epochs of all runs that left a summary
    left_out      {name of run: why it is in no statistic}
    equal_plans   sets of labels that have the same learning rate in every epoch; they are not merged
    problems      what was not sound in the files, sentences
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from statistics import fmean

from harness.compare.groups import Group, Variant, make_groups, natural_order
from harness.compare.load import Runs
from harness.compare.results import BudgetPoint, Decay, Result, budget_curve, decays, ranked, rates, values_by_seed
from harness.compare.stats import ALPHA, Paired, holm, paired, seeds_needed
from harness.errors import UserError

# A schedule that never settles ends wherever its last epoch happens to throw it: a single epoch's loss says little of
# the level it moves at, the mean of the last epochs does.
COMPARED = ("final_val_accuracy", "late_val_loss")
CURVES = 7  # schedules whose curves are drawn; more could not be told apart


@dataclass(frozen=True)
class Difference:
    """A variant less the baseline in one of `COMPARED`; `seeds_needed` counts all seeds, not the missing
    ones.
    """

    label: str
    metric: str
    paired: Paired
    unpaired: tuple[int, ...]
    p_holm: float | None
    seeds_needed: int | None

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the baseline if Holm's p is below 0.05, else `undecided`; or `no
        claim`.
        """
        if self.p_holm is None or self.paired.estimate.mean is None:
            return "no claim"
        if self.p_holm >= ALPHA:
            return "undecided"
        return "better" if (self.paired.estimate.mean > 0) == (self.metric != "late_val_loss") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Everything a report says. `results` are those of the main group, best first; see the module's text."""

    runs: Runs
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
        return sum(run.epochs_trained or 0 for run in self.runs.runs)

    @property
    def epochs_reused(self) -> int:
        """Epochs that runs took over from others through the stage store."""
        return sum(run.epochs_reused or 0 for run in self.runs.runs)

    def leading(self, most: int) -> tuple[Result, ...]:
        """At most so many results: the best, and the baseline wherever it stands."""
        rest = tuple(result for result in self.results[most:] if result.label == self.baseline)
        return (*self.results[: most - len(rest)], *rest)


def compare(runs: Runs, baseline: str | None = None, target_accuracy: float | None = None) -> Comparison:
    """Compare the runs of the largest comparable group; `baseline` is a label or the name of a schedule.

    `target_accuracy` is a fraction; by default it follows from the results. `Comparison.leader` is the best
    variant less the runner-up in final validation accuracy. Raises `UserError` for a baseline that is not
    there or not unique, and for a target outside (0, 1].
    """
    if target_accuracy is not None and not 0 < target_accuracy <= 1:
        raise UserError(f"target accuracy {target_accuracy}: give a fraction above 0 and at most 1, such as 0.9")
    groups = make_groups(runs.runs)
    main = groups[0].variants if groups else ()
    target, target_chosen = _target(main, target_accuracy)
    results = ranked(main, target)
    chosen, baseline_chosen = _baseline(results, baseline)
    differences = _differences(results, chosen)
    apart = tuple((group, ranked(group.variants, target)) for group in groups[1:])
    left_out = {run.name: run.reason for run in runs.runs if not run.counts}
    left_out.update({name: reason for group in groups for name, reason in group.repeats.items()})
    return Comparison(
        runs=runs,
        groups=groups,
        results=results,
        apart=apart,
        target_accuracy=target,
        target_chosen=target_chosen,
        baseline=chosen.label if chosen else None,
        baseline_chosen=baseline_chosen,
        tests=sum(difference.p_holm is not None for difference in differences),
        differences=differences,
        decays=tuple(decay for result in results for decay in decays(result.variant, chosen)),
        leader=_leader(results),
        budget=budget_curve([*([(groups[0], results)] if groups else []), *apart]),
        left_out=left_out,
        equal_plans=_equal_plans(results),
    )


def _target(variants: Sequence[Variant], wanted: float | None) -> tuple[float | None, str]:
    if wanted is not None:
        return wanted, "given"
    lowest = min((fmean(values_by_seed(variant, "final_val_accuracy").values()) for variant in variants), default=0.0)
    target = floor(lowest * 100 + 1e-9) / 100
    if target <= 0:
        return None, "none: no schedule ends above 1 %"
    return (
        target,
        "the lowest mean final validation accuracy among the schedules, rounded down to a whole percent",
    )


def _baseline(results: Sequence[Result], wanted: str | None) -> tuple[Variant | None, str]:
    """The variant that the others are compared with, and how it was chosen."""
    labels = ", ".join(result.label for result in results[:20])
    if wanted is not None:
        matches = [result.variant for result in results if result.label == wanted]
        matches = matches or [result.variant for result in results if result.variant.scheduler == wanted]
        if not matches:
            raise UserError(f"baseline {wanted!r}: no such schedule among the compared runs; there is {labels}")
        if len(matches) > 1:
            raise UserError(f"baseline {wanted!r} fits several schedules; give one label of: {labels}")
        return matches[0], "given"
    if len(results) < 2:
        return None, "none: there is no second schedule to compare"
    constants = [result.variant for result in results if result.variant.scheduler == "constant"]
    if len(constants) == 1:
        return constants[0], "the schedule called constant"
    if constants:
        return constants[0], f"the best of {len(constants)} variants of the schedule called constant"
    first = min((result.variant for result in results), key=lambda variant: natural_order(variant.label))
    return first, "the first by name, since there is no constant schedule; name another with --baseline"


def _differences(results: Sequence[Result], baseline: Variant | None) -> tuple[Difference, ...]:
    """Every other variant against the baseline in both metrics; all their p values are one Holm family."""
    if baseline is None:
        return ()
    others = [result.variant for result in results if result.variant is not baseline]
    found = [(variant, metric, *_paired(variant, baseline, metric)) for variant in others for metric in COMPARED]
    p_values = [pair.p for _, _, pair, _ in found if pair.p is not None]
    corrected = iter(holm(p_values))
    differences = []
    for variant, metric, pair, unpaired in found:
        p_holm = None if pair.p is None else next(corrected)
        needed = None
        if p_holm is not None and p_holm >= ALPHA:
            needed = seeds_needed(pair.estimate.mean or 0.0, pair.estimate.sd or 0.0, ALPHA / len(p_values))
        differences.append(Difference(variant.label, metric, pair, unpaired, p_holm, needed))
    return tuple(differences)


def _paired(variant: Variant, baseline: Variant, metric: str) -> tuple[Paired, tuple[int, ...]]:
    pair = paired(values_by_seed(variant, metric), values_by_seed(baseline, metric))
    seeds = {*variant.seeds, *baseline.seeds}
    return pair, tuple(sorted(seeds.difference(pair.seeds)))


def _leader(results: Sequence[Result]) -> Paired | None:
    if len(results) < 2:
        return None
    return _paired(results[0].variant, results[1].variant, "final_val_accuracy")[0]


def _equal_plans(results: Sequence[Result]) -> tuple[tuple[str, ...], ...]:
    """Labels of schedules that trained every epoch with the same learning rates, in sets of two and more."""
    plans: dict[str, list[str]] = defaultdict(list)
    for result in results:
        plan = sorted((epoch, sorted(lr.items())) for epoch, lr in rates(result.variant).items())
        plans[repr(plan) + repr(result.variant.settings)].append(result.label)
    return tuple(tuple(labels) for labels in plans.values() if len(labels) > 1)
