"""The correction for all pairs, against an independent calculation, and what follows from it in simulated sweeps."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.benchmarks.verdicts import FALSE, SCENARIOS
from harness.compare.looks import Looks, level
from harness.compare.pairs import Pair, corrected, holm, weights

PAIRS = [Pair(metric, *pair) for metric in ("accuracy", "loss") for pair in combinations(range(3), 2)]


def compatible(schedules: int) -> set[frozenset[tuple[int, int]]]:
    """All sets of pairs that are equal if each schedule has one of as many values."""
    return {
        frozenset(pair for pair in combinations(range(schedules), 2) if values[pair[0]] == values[pair[1]])
        for values in product(range(schedules), repeat=schedules)
    }


@settings(max_examples=60)
@given(st.lists(st.floats(1e-6, 1.0), min_size=6, max_size=6), st.sampled_from([0, 1, 2, None]))
def test_a_pair_is_claimed_where_no_set_of_equal_schedules_with_it_is_compatible(
    p: list[float], base: int | None
) -> None:
    p_values, shares = dict(zip(PAIRS, p, strict=True)), weights(PAIRS, 3, 2, base)
    found = corrected(p_values, shares)
    for pair in PAIRS:
        worst = 0.0
        for first, second in product(compatible(3), repeat=2):
            equal = {Pair("accuracy", *each) for each in first} | {Pair("loss", *each) for each in second}
            if pair not in equal:
                continue
            whole = sum(shares[each] for each in equal)
            local = min(
                p_values[one] * whole / sum(shares[other] for other in equal if p_values[other] <= p_values[one])
                for one in equal
            )
            worst = max(worst, min(1.0, local))
        assert found[pair] == pytest.approx(worst)
    assert all(found[pair] <= holm(p_values, shares)[pair] + 1e-12 for pair in PAIRS)


def test_four_fifths_of_the_chance_are_the_baselines_pairs() -> None:
    shares = weights(PAIRS, 3, 2, 0)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert sum(share for pair, share in shares.items() if pair.first == 0) == pytest.approx(0.8)
    assert set(weights(PAIRS, 3, 2, None).values()) == {1 / 6}


def test_of_many_schedules_the_correction_is_holms() -> None:
    pairs = [Pair("loss", *pair) for pair in combinations(range(12), 2)]
    p_values = dict(zip(pairs, np.linspace(0.0001, 1, len(pairs)).tolist(), strict=True))
    equal = weights(pairs, 12, 1, None)
    steps = np.maximum.accumulate([p * (len(pairs) - rank) for rank, p in enumerate(p_values.values())])
    assert list(corrected(p_values, equal).values()) == pytest.approx(np.minimum(steps, 1.0))


def test_pairs_that_are_not_looked_at_make_no_other_one_s_claim_easier() -> None:
    pairs = [Pair("loss", *pair) for pair in combinations(range(12), 2)]
    some = dict.fromkeys(pairs[:11], 0.001)
    assert list(corrected(some, weights(pairs, 12, 1, None)).values()) == pytest.approx([0.066] * 11)


def test_all_looks_together_spend_one_in_twenty() -> None:
    assert level(1) == pytest.approx(0.0425)
    assert 0.0499 < sum(level(number) for number in range(1, 100_000)) < 0.05


def test_a_look_is_counted_once_and_only_where_it_shares_runs() -> None:
    five, ten, other = frozenset("abcde"), frozenset("abcdefghij"), frozenset("xyz")
    looks = Looks().with_(five).with_(other)
    assert (looks.number(five), looks.number(ten), looks.number(other)) == (1, 2, 1)
    again = looks.with_(ten).with_(five)
    assert (again.number(five), again.number(ten), again.number(frozenset("abc"))) == (1, 2, 3)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.kind == FALSE])
def test_simulated_sweeps_are_seldom_claimed_to_differ_falsely(name: str) -> None:
    sweeps = round(100 * SCENARIOS[name].share)
    rng = np.random.default_rng([1, *name.encode()])
    false = sum(SCENARIOS[name].holds(rng) for _ in range(sweeps))
    assert false <= 0.05 * sweeps + 3 * (0.05 * 0.95 * sweeps) ** 0.5
