"""What the runs of a comparison say: results, paired differences, decays. Reads files only, never the trainer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

from harness.compare.decays import Decay, decays
from harness.compare.groups import Group, Variant, make_groups, natural_order
from harness.compare.load import Loaded, Run
from harness.compare.looks import Looks, level, look_at
from harness.compare.metrics import COMPARED, diverged, running_means
from harness.compare.results import BudgetPoint, Result, budget_curve, decay_factors, ranked, rates
from harness.compare.verdicts import FEWEST_SEEDS, Difference, Terms, contenders, judge
from harness.errors import UserError

DRAWN = 7  # schedules whose curves are drawn; more could not be told apart


@dataclass(frozen=True)
class Comparison:
    """Everything a report says. `results` are those of the main group, best first; `differences` those from the
    baseline, `others` all others; `contenders` the schedules that may be best, by metric; `problems` are sentences on
    what was not sound in the files; `harness.report.exports` explains the rest.
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
    differences: tuple[Difference, ...]
    others: tuple[Difference, ...]
    contenders: Mapping[str, tuple[str, ...]]
    look: int
    terms: Terms
    withheld: str
    decays: tuple[Decay, ...]
    budget: tuple[BudgetPoint, ...]
    left_out: Mapping[str, str]
    equal_plans: tuple[tuple[str, ...], ...]

    @property
    def main(self) -> Group | None:
        """The group that is compared, None if no run counts."""
        return self.groups[0] if self.groups else None

    @property
    def pairs(self) -> tuple[Difference, ...]:
        """The differences of all pairs of schedules."""
        return (*self.differences, *self.others)

    @property
    def tests(self) -> int:
        """How many tests the claims allow for: of all pairs in all compared metrics, if any can be tested."""
        if all(difference.p_corrected is None for difference in self.pairs):
            return 0
        return len(self.results) * (len(self.results) - 1) // 2 * len(COMPARED)

    @property
    def can_claim(self) -> bool:
        """Whether there are seeds enough for a claim about any pair, so that this is a look."""
        return any(len(difference.paired.seeds) >= FEWEST_SEEDS for difference in self.pairs)

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


def compare(
    loaded: Loaded,
    baseline: str | None = None,
    target_accuracy: float | None = None,
    margin: float | None = None,
    looks: Looks = Looks(),  # noqa: B008
    withheld: str = "",
) -> Comparison:
    """Compare the runs of the largest comparable group; `baseline` is a label or the name of a schedule.

    `target_accuracy` is a fraction; by default it follows from the results. With `margin`, a difference of accuracy in
    points, it may be claimed that two schedules do not differ by so much. `looks` are those before this one; `withheld`
    says why nothing is tested, if nothing is to be.

    Raises:
        UserError: for a baseline that is not there or not unique, for a target outside (0, 1], and for a margin outside
            (0, 100).
    """
    if margin is not None and not 0 < margin < 100:
        raise UserError(f"margin {margin:g}: give percentage points of accuracy above 0 and below 100, such as 0.3")
    if target_accuracy is not None and not 0 < target_accuracy <= 1:
        raise UserError(f"target accuracy {target_accuracy}: give a fraction above 0 and at most 1, such as 0.9")
    groups = make_groups(loaded.runs)
    main = groups[0].variants if groups else ()
    target, target_chosen = _target(main, target_accuracy)
    results = ranked(main, target)
    chosen, baseline_chosen = _baseline(results, baseline)
    look = looks.number(look_at(groups[0])) if groups else 1
    terms = Terms(level(look), level(look + 1), None if margin is None else margin / 100)
    pairs = () if withheld else _pairs(results, chosen, terms)
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
        differences=tuple(pair for pair in pairs if chosen and pair.other == chosen.label),
        others=tuple(pair for pair in pairs if not chosen or pair.other != chosen.label),
        contenders={metric.key: contenders([result.label for result in results], pairs, metric) for metric in COMPARED},
        look=look,
        terms=terms,
        withheld=withheld,
        decays=decays(results, chosen),
        budget=budget_curve([*([(groups[0], results)] if groups else []), *apart]),
        left_out=left_out,
        equal_plans=_equal_plans(results),
    )


def _target(variants: Sequence[Variant], wanted: float | None) -> tuple[float | None, str]:
    """The highest target, in coarse steps, that some schedule always meets, and in finer ones if it tells nothing.

    A target that all meet before the first decay says nothing about schedules that differ in their decays. A schedule
    with a run that diverged meets none always; if all have one, the other runs decide.
    """
    if wanted is not None:
        return wanted, "given"
    sound = [[run for run in variant.runs if not diverged(run)] for variant in variants]
    whole = [runs for runs, variant in zip(sound, variants, strict=True) if len(runs) == len(variant.runs)]
    every = "every run" if whole else "every run that did not diverge"
    peaks = [[max((mean for _, mean in running_means(run)), default=0.0) for run in runs] for runs in whole or sound]
    always = max((min(peak) for peak in peaks if peak), default=0.0)
    first_decay = min((epoch for variant in variants for epoch in decay_factors(variant)), default=0)
    early = [[mean for epochs, mean in running_means(run) if epochs <= first_decay] for runs in sound for run in runs]
    reached = min((max(means, default=0.0) for means in early), default=0.0)
    for steps, name in ((100, "whole percent"), (200, "half percent"), (1000, "tenth of a percent")):
        target = floor(always * steps + 1e-6) / steps
        if target > reached + 1e-9:
            return target, f"the highest {name} that {every} of at least one schedule meets"
    if target <= 0:
        return None, "none: no schedule meets even 0.1 % in every run"
    return target, f"the highest {name} that {every} of at least one schedule meets; all meet it before any decay"


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


def _pairs(results: Sequence[Result], baseline: Result | None, terms: Terms) -> tuple[Difference, ...]:
    """All pairs of results: those with the baseline first, each set by what was ranked higher."""
    if baseline is None:
        return ()
    found = judge({result.label: result.values for result in results}, baseline.label, _favoured(results), terms)
    metrics = {metric.key: place for place, metric in enumerate(COMPARED)}
    places = {result.label: place for place, result in enumerate(results)}
    return tuple(sorted(found, key=lambda each: (places[each.label], places[each.other], metrics[each.metric.key])))


def _favoured(results: Sequence[Result]) -> str | None:
    """The constant schedule, if there is one, the first by name of several: a baseline known before the results."""
    constants = (result.label for result in results if result.variant.scheduler == "constant")
    return min(constants, key=natural_order, default=None)


def _equal_plans(results: Sequence[Result]) -> tuple[tuple[str, ...], ...]:
    """Labels of schedules that trained every epoch with the same learning rates, in sets of two and more."""
    plans: dict[str, list[str]] = defaultdict(list)
    for result in results:
        plan = sorted((epoch, sorted(lr.items())) for epoch, lr in rates(result.variant).items())
        plans[repr(plan) + repr(result.variant.settings)].append(result.label)
    return tuple(tuple(labels) for labels in plans.values() if len(labels) > 1)
