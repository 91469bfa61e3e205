"""A schedule as a value: the learning rate of every epoch and parameter group, known before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_FEW = 5  # changes that are named one by one


@dataclass(frozen=True)
class LrChange:
    """The first epoch trained with new rates, and each group's rate before and from then on."""

    epoch: int
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class LrPlan:
    """`rates[epoch][group]`, in the order of `groups`."""

    groups: tuple[str, ...]
    rates: tuple[tuple[float, ...], ...]

    @property
    def epochs(self) -> int:
        """Number of epochs planned."""
        return len(self.rates)

    @property
    def changes(self) -> tuple[LrChange, ...]:
        """The epochs, in order, whose rates differ from the epoch before."""
        pairs = enumerate(pairwise(self.rates), start=1)
        return tuple(LrChange(epoch, old, new) for epoch, (old, new) in pairs if old != new)

    def by_group(self, epoch: int) -> dict[str, float]:
        """The rates of one epoch by group name."""
        return dict(zip(self.groups, self.rates[epoch], strict=True))

    def of(self, groups: Sequence[str]) -> LrPlan:
        """The same plan for some of its groups."""
        chosen = [self.groups.index(group) for group in groups]
        return LrPlan(tuple(groups), tuple(tuple(rates[index] for index in chosen) for rates in self.rates))

    def agreement(self, trained: Sequence[Mapping[str, float]]) -> int:
        """How many epochs from the first on were trained (`trained[epoch][group]`) just as this plan says."""
        for epoch, rates in enumerate(trained[: self.epochs]):
            if dict(rates) != self.by_group(epoch):
                return epoch
        return min(len(trained), self.epochs)


def rates_text(rates: Mapping[str, float]) -> str:
    """Learning rates by group as short text; the name is left out where there is one group."""
    if len(rates) == 1:
        return f"{next(iter(rates.values())):.4g}"
    return " ".join(f"{name}={rate:.4g}" for name, rate in rates.items())


def plan_text(plan: LrPlan) -> str:
    """A plan as short text: its changes where they are few, else its first, highest and last rates."""
    texts = [rates_text(plan.by_group(epoch)) for epoch in range(plan.epochs)]
    changes, highest = plan.changes, plan.rates.index(max(plan.rates))
    if len(changes) <= _FEW:
        named = [f"{texts[change.epoch]} from epoch {change.epoch}" for change in changes]
    else:
        peak = [f"{texts[highest]} in epoch {highest}"] if 0 < highest < plan.epochs - 1 else []
        named = [*peak, f"{texts[-1]} in epoch {plan.epochs - 1}, {len(changes)} changes"]
    return f"learning rate {', '.join([texts[0], *named])} ({plan.epochs} epochs)"
