"""Many differences tested at once: p values of all pairs of schedules in all metrics, corrected for their number.

Whoever reads a report may pick its baseline, or the best of it, after seeing the results. A claim about any pair is
therefore made only if it stands among the tests of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, combinations, product
from typing import NamedTuple

# Of the chance of a false claim, what is first spent on the pairs with the baseline.
BASELINE_SHARE = 0.8
# How many sets of equal schedules are tested at most: of 6 schedules in two metrics there are 41,209.
_MOST_SETS = 50_000


class Pair(NamedTuple):
    """The difference of two schedules, by their numbers, in a metric, by its key; `first` < `second`."""

    metric: str
    first: int
    second: int


def weights(pairs: Sequence[Pair], schedules: int, metrics: int, baseline: int | None) -> dict[Pair, float]:
    """Each pair's share of the chance of a false claim; those with the baseline, known beforehand, have the more.

    All pairs of so many schedules in so many metrics have 1 together, whether or not they are among `pairs`.
    """
    every = schedules * (schedules - 1) // 2 * metrics
    favoured = (schedules - 1) * metrics
    if baseline is None or favoured == every:
        return dict.fromkeys(pairs, 1 / every)
    shares = {True: BASELINE_SHARE / favoured, False: (1 - BASELINE_SHARE) / (every - favoured)}
    return {pair: shares[baseline in (pair.first, pair.second)] for pair in pairs}


def corrected(p_values: Mapping[Pair, float], shares: Mapping[Pair, float]) -> dict[Pair, float]:
    """p values that are at most alpha, for any of the pairs that do not differ, with probability alpha at most.

    Of few schedules, six in two metrics, the closed test: a pair differs if no way to have some schedules equal, this
    pair among them, is compatible with the p values by Simes' weighted test. Of more, Holm's weighted test.

    Marcus, R., Peritz, E., Gabriel, K. R. (1976): On closed testing procedures. Biometrika 63, 655-660. Hochberg, Y.,
    Liberman, U. (1994): An extended Simes' test. Statistics & Probability Letters 21, 101-105. Holm, S. (1979): A
    simple sequentially rejective multiple test procedure. Scand. J. Statist. 6, 65-70.
    """
    schedules = {number for pair in p_values for number in pair[1:]}
    if _bell(len(schedules)) ** len({pair.metric for pair in p_values}) > _MOST_SETS:
        return holm(p_values, shares)
    order = sorted(p_values, key=p_values.__getitem__)
    found = dict.fromkeys(order, 0.0)
    for equal in _equalities(order, sorted(schedules)):
        p = _simes(equal, p_values, shares)
        for pair in equal:
            found[pair] = max(found[pair], p)
    return found


def holm(p_values: Mapping[Pair, float], shares: Mapping[Pair, float]) -> dict[Pair, float]:
    """As `corrected`, by Holm's weighted test alone; pairs that are not there count as never claimed."""
    left, largest, found = 1.0, 0.0, {}
    for pair in sorted(p_values, key=lambda pair: p_values[pair] / shares[pair]):
        largest = max(largest, min(1.0, p_values[pair] * left / shares[pair]))
        found[pair] = largest
        left -= shares[pair]
    return found


def _simes(equal: Sequence[Pair], p_values: Mapping[Pair, float], shares: Mapping[Pair, float]) -> float:
    """The p value of all these pairs being equal; they are in the order of their p values."""
    whole, so_far, least = sum(shares[pair] for pair in equal), 0.0, 1.0
    for pair in equal:
        so_far += shares[pair]
        least = min(least, p_values[pair] * whole / so_far)
    return least


def _equalities(order: Sequence[Pair], schedules: Sequence[int]) -> Iterator[list[Pair]]:
    """All sets of pairs that can be equal together and nothing else be: schedules equal to a third are equal."""
    ways = [{pair for block in blocks for pair in combinations(sorted(block), 2)} for blocks in _partitions(schedules)]
    metrics = sorted({pair.metric for pair in order})
    for chosen in product(ways, repeat=len(metrics)):
        by_metric = dict(zip(metrics, chosen, strict=True))
        if equal := [pair for pair in order if pair[1:] in by_metric[pair.metric]]:
            yield equal


def _bell(items: int) -> int:
    """In how many ways so many items are parted into sets."""
    row = [1]
    for _ in range(items):
        row = list(accumulate([row[-1], *row]))
    return row[0]


def _partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    for blocks in _partitions(items[1:]):
        yield [[items[0]], *blocks]
        for place, block in enumerate(blocks):
            yield [*blocks[:place], [items[0], *block], *blocks[place + 1 :]]
