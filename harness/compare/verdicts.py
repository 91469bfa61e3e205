"""What may be claimed: of each pair of schedules whether they differ, and of each metric which schedule may be best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from statistics import fmean

from harness.compare.metrics import ACCURACY, COMPARED, Compared
from harness.compare.pairs import Pair, corrected, holm, weights
from harness.compare.stats import ALPHA, Paired, SeedsNeeded, paired, seeds_needed

# More chance than that for so many seeds to agree by the way, and a claim about the mean rests on few of them.
MOST_BY_SIGN = 0.2
# With fewer they always may, so that nothing is claimed, and looking at them costs nothing.
FEWEST_SEEDS = 3
# Of the chance of a false claim, what goes to claims that two schedules do not differ by more than a margin.
EQUIVALENCE_SHARE = 0.2
# Of more schedules, which have 780 pairs, only those with the baseline and with the best are looked at.
MOST_IN_PAIRS = 40
# A corrected p so close to 0.05 may lie on its other side with another version of a library.
_CLOSE = (ALPHA / 2.5, ALPHA * 2.5)


@dataclass(frozen=True)
class Difference:
    """Schedule `label` less schedule `other` in a metric.

    `p_corrected` is for the number of tests and looks, to be compared with 0.05, as is `p_equivalent` of the two being
    as far apart as the margin; `low` and `high` are those of an interval that holds for all pairs at once.
    `seeds_needed` counts all seeds, not the missing ones.
    """

    label: str
    other: str
    metric: Compared
    paired: Paired
    unpaired: tuple[int, ...]
    p_corrected: float | None
    low: float | None
    high: float | None
    p_equivalent: float | None
    seeds_needed: SeedsNeeded | None

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the other, `equivalent` within the margin, `undecided`; or `no claim`."""
        if self.p_corrected is None or self.paired.estimate.mean is None:
            return "no claim"
        if self.p_corrected < ALPHA and self.paired.p_sign <= MOST_BY_SIGN:
            return "better" if (self.paired.estimate.mean > 0) == self.metric.higher_is_better else "worse"
        return "equivalent" if self.is_within_margin else "undecided"

    @property
    def is_within_margin(self) -> bool:
        """Whether it may be claimed that the two do not differ by the margin."""
        return self.p_equivalent is not None and self.p_equivalent < ALPHA

    @property
    def is_close(self) -> bool:
        """Whether a little would turn the verdict."""
        return self.p_corrected is not None and _CLOSE[0] < self.p_corrected < _CLOSE[1]

    @property
    def ahead(self) -> str | None:
        """The schedule that is claimed to be better, if one is."""
        return {"better": self.label, "worse": self.other}.get(self.verdict)


@dataclass(frozen=True)
class Terms:
    """On what terms claims are made.

    `level` is the chance of any false claim at this look, `next_level` that at the next one. With `margin`, a
    difference of accuracy as a fraction, it may also be claimed that two schedules do not differ by so much.
    """

    level: float = ALPHA
    next_level: float = ALPHA
    margin: float | None = None


# By metric and seed what the runs of a schedule have.
Values = Mapping[str, Mapping[int, float]]


def judge(
    schedules: Mapping[str, Values], baseline: str | None, favoured: str | None, terms: Terms, exact: bool = True
) -> tuple[Difference, ...]:
    """All pairs of schedules in every compared metric; those with `baseline` as differences from it.

    Of very many schedules they are the pairs with the baseline and those with the best by the metric's mean, corrected
    as if all were tested.

    `favoured` is the baseline that was known before there were results, if one was. `exact` permutation tests are made
    of the pairs with the baseline.
    """
    labels, metrics = list(schedules), {metric.key: metric for metric in COMPARED}
    pairs: dict[Pair, Paired] = {}
    for metric in metrics:
        for first, second in _looked_at(schedules, baseline, metrics[metric]):
            ours, theirs = (schedules[label][metric] for label in _turned(labels[first], labels[second], baseline))
            wanted = exact and baseline in (labels[first], labels[second])
            pairs[Pair(metric, first, second)] = paired(ours, theirs, wanted)
    base = labels.index(favoured) if favoured in labels else None
    shares = weights(list(pairs), len(labels), len(metrics), base)
    level = terms.level * (1.0 if terms.margin is None else 1 - EQUIVALENCE_SHARE)
    p_values = {key: pair.p for key, pair in pairs.items() if pair.p is not None}
    p_corrected = _to_alpha(corrected(p_values, shares), level)
    accuracies = {key: pair for key, pair in pairs.items() if metrics[key.metric].unit is ACCURACY}
    equivalent = _equivalent(accuracies, len(labels), terms)
    found = []
    for key, pair in pairs.items():
        label, other = _turned(labels[key.first], labels[key.second], baseline)
        low, high = pair.interval(level * shares[key]) or (None, None)
        p, needed = p_corrected.get(key), None
        if p is not None and p >= ALPHA:
            needed = seeds_needed(pair, terms.next_level * level / terms.level * shares[key])
        seeds = schedules[label][key.metric].keys() | schedules[other][key.metric].keys()
        found.append(
            Difference(
                label, other, metrics[key.metric], pair, tuple(sorted(seeds.difference(pair.seeds))), p, low, high,
                equivalent.get(key), needed,
            )
        )  # fmt: skip
    return tuple(found)


def _turned(first: str, second: str, baseline: str | None) -> tuple[str, str]:
    return (second, first) if first == baseline else (first, second)


def _to_alpha(p_values: Mapping[Pair, float], level: float) -> dict[Pair, float]:
    """As they are to be compared with `ALPHA`, where they were with `level`."""
    return {key: min(1.0, p * ALPHA / level) for key, p in p_values.items()}


def _looked_at(schedules: Mapping[str, Values], baseline: str | None, metric: Compared) -> list[tuple[int, int]]:
    every = list(combinations(range(len(schedules)), 2))
    if len(schedules) <= MOST_IN_PAIRS:
        return every
    sign = 1.0 if metric.higher_is_better else -1.0
    means = [sign * fmean(each[metric.key].values()) if each[metric.key] else -inf for each in schedules.values()]
    chosen = {means.index(max(means)), *(place for place, label in enumerate(schedules) if label == baseline)}
    return [pair for pair in every if chosen & {*pair}]


def _equivalent(pairs: Mapping[Pair, Paired], schedules: int, terms: Terms) -> dict[Pair, float]:
    if terms.margin is None:
        return {}
    p_values = {key: p for key, pair in pairs.items() if (p := pair.p_equivalent(terms.margin)) is not None}
    return _to_alpha(holm(p_values, weights(list(p_values), schedules, 1, None)), terms.level * EQUIVALENCE_SHARE)


def contenders(labels: Sequence[str], differences: Sequence[Difference], metric: Compared) -> tuple[str, ...]:
    """The schedules that may be the best: of which it cannot be claimed that another one is better."""
    beaten = {each.other if each.ahead == each.label else each.label for each in differences
              if each.metric is metric and each.ahead is not None}  # fmt: skip
    return tuple(label for label in labels if label not in beaten)
