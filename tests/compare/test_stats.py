"""Intervals, tests, correction and power, against independent calculations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.compare.stats import Paired, effect_interval, estimate, p_of_rates, paired, seeds_needed

accuracies = st.integers(0, 1000).map(lambda value: value / 1000)


@given(st.lists(accuracies, min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_an_estimate_is_scipys_t_interval(values: list[float]) -> None:
    found = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_one_value_has_no_interval_and_equal_values_have_a_closed_one() -> None:
    assert (estimate([0.3]).mean, estimate([0.3]).low, estimate([]).mean) == (0.3, None, None)
    assert (estimate([0.1] * 3).low, estimate([0.1] * 3).high) == pytest.approx((0.1, 0.1))
    assert estimate([0.1] * 3).sd == 0.0


@settings(max_examples=40)
@given(st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=7))
def test_both_tests_agree_with_the_textbook_and_never_give_nan(pairs: list[tuple[float, float]]) -> None:
    first = dict(enumerate(pair[0] for pair in pairs))
    second = dict(enumerate(pair[1] for pair in pairs))
    found = paired(first, second)
    thousandths = [round(1000 * a) - round(1000 * b) for a, b in pairs]
    observed = abs(sum(thousandths))
    flips = itertools.product((-1, 1), repeat=len(pairs))
    as_extreme = [abs(sum(s * d for s, d in zip(signs, thousandths, strict=True))) >= observed for signs in flips]
    assert found.p_permutation == pytest.approx(np.mean(as_extreme))
    if len(set(thousandths)) == 1:
        assert found.p_t == (1.0 if observed == 0 else None)
        assert found.estimate.sd == 0.0
    else:
        t = np.mean(thousandths) / (np.std(thousandths, ddof=1) / math.sqrt(len(pairs)))
        assert found.p_t == pytest.approx(2 * stats.t.sf(abs(t), len(pairs) - 1), rel=1e-6)
        half = stats.t.ppf(0.975, len(pairs) - 1) * np.std(thousandths, ddof=1) / math.sqrt(len(pairs))
        assert found.estimate.high == pytest.approx((np.mean(thousandths) + half) / 1000)
    assert all(value is None or math.isfinite(value) for value in (found.p, found.estimate.low, found.estimate.sd))


def test_only_shared_seeds_are_paired() -> None:
    found = paired({0: 0.5, 1: 0.6, 7: 0.9}, {1: 0.5, 0: 0.3, 3: 0.1})
    assert found.seeds == (0, 1)
    assert found.differences == pytest.approx((0.2, 0.1))


def test_rounding_errors_are_not_taken_for_variance() -> None:
    found = paired({0: 0.1 + 0.2, 1: 0.3, 2: 0.5}, {0: 0.2, 1: 0.2, 2: 0.4})
    assert found.estimate.sd == 0.0
    assert (found.p_t, found.p) == (None, 0.25)


@pytest.mark.parametrize(("effect", "needed"), [(0.5, 34), (1.0, 10), (0.2, 199)])
def test_seeds_needed_agree_with_published_power_tables(effect: float, needed: int) -> None:
    found = seeds_needed(with_effect(effect), 0.05)
    assert found is not None
    assert found.observed == needed


def with_effect(effect: float, n: int = 8) -> Paired:
    """A difference with this mean over its spread."""
    values = np.array([*range(n)]) / np.std(range(n), ddof=1)
    values += effect - values.mean()
    return paired(dict(enumerate(values.tolist())), dict.fromkeys(range(n), 0.0))


def test_seeds_needed_reach_the_promised_power_in_simulation() -> None:
    found = seeds_needed(with_effect(0.9), 0.01)
    assert found is not None
    draws = np.random.default_rng(0).normal(0.9, 1.0, (20_000, found.observed or 0))
    power = np.mean(stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.01)
    assert 0.77 < power < 0.84


def test_no_number_of_seeds_is_promised_for_a_difference_of_nothing() -> None:
    assert seeds_needed(paired({0: 0.3, 1: 0.1}, {0: 0.1, 1: 0.3}), 0.05) is None
    assert seeds_needed(paired({0: 0.3, 1: 0.3}, {0: 0.2, 1: 0.2}), 0.05) is None
    small = seeds_needed(with_effect(0.01), 0.05)
    assert small is not None
    assert (small.observed, small.most) == (None, None)


def test_the_range_of_seeds_needed_is_where_the_truth_would_be_in_four_of_five_cases() -> None:
    true, n = 1.2, 10
    draws = np.random.default_rng(2).normal(true, 1.0, (2_000, n))
    inside = 0
    for effect in draws.mean(axis=1) / draws.std(axis=1, ddof=1):
        low, high = effect_interval(float(effect), n)
        inside += low <= true <= high
    assert 0.77 < inside / len(draws) < 0.84


def test_equivalence_is_what_two_one_sided_t_tests_say() -> None:
    differences = np.array([0.001, -0.002, 0.0005, 0.003, -0.001])
    pair = paired(dict(enumerate((0.9 + differences).tolist())), dict.fromkeys(range(5), 0.9))
    for margin in (0.002, 0.005, 0.01):
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
        above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        assert pair.p_equivalent(margin) == pytest.approx(max(below, above), rel=1e-6)
    assert paired({0: 0.5}, {0: 0.4}).p_equivalent(0.3) is None


def test_agreement_in_sign_is_a_one_sided_sign_test() -> None:
    pair = paired({0: 1.0, 1: 2.0, 2: 3.0, 3: -0.5}, dict.fromkeys(range(4), 0.0))
    assert pair.p_sign == pytest.approx(stats.binomtest(3, 4, alternative="greater").pvalue)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (3, 9)])
def test_rates_are_compared_by_mcnemars_exact_test(first: int, second: int) -> None:
    wanted = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert p_of_rates(first, second) == pytest.approx(wanted)


def test_half_an_interval_is_what_stands_behind_plus_or_minus() -> None:
    assert estimate([0.1, 0.3, 0.4]).half_width == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem([0.1, 0.3, 0.4]))
    assert (estimate([0.3]).half_width, estimate([]).half_width) == (None, None)


def test_one_shared_seed_is_a_difference_without_a_test() -> None:
    found = paired({0: 0.5, 1: 0.6}, {1: 0.5, 2: 0.3})
    assert (found.seeds, found.estimate.n, found.estimate.mean) == ((1,), 1, pytest.approx(0.1))
    assert (found.p, found.p_permutation, found.smallest_permutation_p, paired({}, {}).seeds) == (None, None, None, ())


@pytest.mark.parametrize("n", [2, 3, 12])
def test_the_permutation_test_can_give_no_less_than_is_said(n: int) -> None:
    found = paired({seed: 0.5 + seed / 100 for seed in range(n)}, dict.fromkeys(range(n), 0.2))
    assert found.smallest_permutation_p == found.p_permutation == 2 / 2**n


def test_beyond_twelve_seeds_no_permutation_test_is_made() -> None:
    found = paired({seed: 0.5 + seed / 100 for seed in range(13)}, dict.fromkeys(range(13), 0.2))
    assert found.p_permutation is None
    assert found.p == found.p_t is not None


def test_differences_that_are_equal_but_for_rounding_are_nothing_where_they_are_as_small() -> None:
    found = paired({0: 0.1 + 0.2, 1: 0.3}, {0: 0.3, 1: 0.3})
    assert (found.differences, found.p_t, found.p_permutation) == ((0.0, 0.0), 1.0, 1.0)
