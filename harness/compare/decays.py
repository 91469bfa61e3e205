"""What each decay of a learning rate did: the change around it, less that of runs which went on without it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.compare.groups import natural_order
from harness.compare.load import Run
from harness.compare.metrics import diverged
from harness.compare.results import Result, decay_factors, rates
from harness.compare.stats import Estimate, estimate

# Half of so many epochs on each side make a mean: enough that no single epoch decides, the new rate has had time to
# act, and other schedules still are where they were.
NEAR = 10


@dataclass(frozen=True)
class Decay:
    """What happened around one drop of a variant's learning rate; `harness.report.exports` explains each number."""

    label: str
    epoch: int
    factor: float
    before: tuple[int, int]
    after: tuple[int, int]
    reference: str | None
    same_state: bool
    accuracy_before: Estimate
    accuracy_after: Estimate
    accuracy_change: Estimate
    accuracy_effect: Estimate
    loss_before: Estimate
    loss_after: Estimate
    loss_change: Estimate
    loss_effect: Estimate


def decays(results: Sequence[Result], baseline: Result | None) -> tuple[Decay, ...]:
    """The decays of all schedules of a group, in their order; runs that diverged are left out."""
    return _Group(results, baseline).decays()


class _Group:
    """The runs of a group by schedule and seed, and which of them trained the same epochs."""

    def __init__(self, results: Sequence[Result], baseline: Result | None) -> None:
        self.results, self.baseline = results, None if baseline is None else baseline.label
        self.factors = {result.label: decay_factors(result.variant) for result in results}
        self.rates = {result.label: rates(result.variant) for result in results}
        self.runs = {result.label: _sound(result.variant.runs) for result in results}
        # By schedule, seed and epoch a number, the same for runs that trained the same epochs; who they are, by number.
        self.states: dict[tuple[str, int, int], int] = {}
        self.sharing: dict[int | None, list[str]] = defaultdict(list)
        if any(self.factors.values()):
            self._find_states()

    def _find_states(self) -> None:
        numbers: dict[tuple[object, ...], int] = {}
        for label, runs in self.runs.items():
            for seed, run in runs.items():
                state = -1
                for row in run.log:
                    trained = (row.train_loss, row.train_accuracy, row.val_loss, row.val_accuracy)
                    key = (state, seed, row.epoch, *sorted(row.lr.items()), *trained)
                    state = numbers.setdefault(key, len(numbers))
                    self.states[label, seed, row.epoch] = state
                    self.sharing[state].append(label)

    def decays(self) -> tuple[Decay, ...]:
        found = []
        for result in self.results:
            starts = sorted(self.factors[result.label])
            bounds = [0, *starts, result.variant.runs[0].epochs or 0]
            for start, epoch, end in zip(bounds, starts, bounds[2:], strict=False):
                found.append(self._decay(result.label, start, epoch, end))
        return tuple(found)

    def _decay(self, label: str, start: int, epoch: int, end: int) -> Decay:
        reference, others, kept = self._same_state(label, epoch, min(NEAR, end - epoch))
        same_state = reference is not None
        before, after = _second_half(max(start, epoch - NEAR), epoch), _second_half(epoch, epoch + kept)
        if not same_state:
            reference, others = self._baseline(label, before, after)
        estimates = {}
        for kind in ("accuracy", "loss"):
            ours, theirs = (_around(runs, f"val_{kind}", before, after) for runs in (self.runs[label], others))
            changes = {seed: later - earlier for seed, (earlier, later) in ours.items()}
            estimates[f"{kind}_before"] = estimate([earlier for earlier, _ in ours.values()])
            estimates[f"{kind}_after"] = estimate([later for _, later in ours.values()])
            estimates[f"{kind}_change"] = estimate(list(changes.values()))
            estimates[f"{kind}_effect"] = estimate(
                [changes[seed] - (later - earlier) for seed, (earlier, later) in theirs.items() if seed in changes]
            )
        return Decay(
            label=label, epoch=epoch, factor=self.factors[label][epoch], before=(before[0], before[-1]),
            after=(after[0], after[-1]), reference=reference, same_state=same_state, **estimates,
        )  # fmt: skip

    def _same_state(self, label: str, epoch: int, near: int) -> tuple[str | None, Mapping[int, Run], int]:
        """The schedule most of whose runs trained the same epochs and then kept their rates for at least half of `near`
        epochs, of equal ones that which kept them longest; these runs; and the epochs to compare, all without any.
        """
        seeds: dict[str, list[int]] = defaultdict(list)
        for seed in self.runs[label]:
            for other in self.sharing.get(self.states.get((label, seed, epoch - 1)), ()):
                seeds[other].append(seed)
        kept = {other: _kept(self.rates[other], epoch, near) for other in seeds if other != label}
        fitting = [other for other in kept if 2 * kept[other] >= near]
        if not fitting:
            return None, {}, near
        chosen = min(fitting, key=lambda o: (-len(seeds[o]), -kept[o], o != self.baseline, natural_order(o)))
        return chosen, {seed: self.runs[chosen][seed] for seed in seeds[chosen]}, kept[chosen]

    def _baseline(self, label: str, before: range, after: range) -> tuple[str | None, Mapping[int, Run]]:
        """The baseline, if it has a seed in common and does not decay between the two windows or in them."""
        chosen, inside = self.baseline, range(before.start + 1, after.stop)
        if chosen is None or any(epoch in inside for epoch in self.factors[chosen]):
            return None, {}
        return (chosen, self.runs[chosen]) if self.runs[label].keys() & self.runs[chosen].keys() else (None, {})


def _sound(runs: Iterable[Run]) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.seed is not None and not diverged(run)}


def _second_half(start: int, end: int) -> range:
    return range(end - max(1, (end - start) // 2), end)


def _kept(plan: Mapping[int, Mapping[str, float]], epoch: int, most: int) -> int:
    """For how many epochs, `most` or fewer, the rates stay what they were before an epoch."""
    changed = (later for later in range(epoch, epoch + most) if plan.get(later) != plan.get(epoch - 1))
    return next(changed, epoch + most) - epoch


def _around(runs: Mapping[int, Run], metric: str, before: range, after: range) -> dict[int, tuple[float, float]]:
    """The metric's means over both windows by seed, of the runs that have it in all epochs of them."""
    found = {}
    for seed, run in runs.items():
        values = {row.epoch: getattr(row, metric) for row in run.log}
        if all(values.get(epoch) is not None for epoch in (*before, *after)):
            found[seed] = (fmean(values[epoch] for epoch in before), fmean(values[epoch] for epoch in after))
    return found
