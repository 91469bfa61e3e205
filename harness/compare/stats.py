"""The statistics of a comparison: interval, paired difference, correction, number of seeds.

Distributions and tests are SciPy's; it is imported when a test is asked for, since its import takes most of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
EXACT_SEEDS = 12  # 2^12 sign patterns; beyond that the exact test is not made
MOST_SEEDS = 10_000  # a difference that needs more than that is reported as out of reach


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` runs with Student's 95 % interval `low` to `high` and the standard deviation `sd`.

    `mean` is None without values; the other three are None with fewer than two. Unit: that of the values.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    sd: float | None

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, None where there is no interval."""
        return None if self.high is None or self.low is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Paired:
    """Alternative minus baseline over the seeds that both have.

    `p_t` is None where the t statistic is undefined (fewer than two seeds, or one difference repeated
    exactly); `p_permutation` is None with fewer than two seeds or more than `EXACT_SEEDS`.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    estimate: Estimate
    p_t: float | None
    p_permutation: float | None

    @property
    def p(self) -> float | None:
        """The p value that verdicts rest on: Student's, else the permutation test's."""
        return self.p_permutation if self.p_t is None else self.p_t

    @property
    def smallest_permutation_p(self) -> float | None:
        """The least p that the permutation test can give with so many seeds, 2 / 2^n; None below two seeds."""
        n = len(self.seeds)
        return 2.0 / 2.0**n if n >= 2 else None


@lru_cache(maxsize=4096)
def t_quantile(n: int) -> float:
    """How many standard errors of a mean over `n` >= 2 values lie on each side of its 95 % interval."""
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval of finite values; one value or none gives no interval."""
    n = len(values)
    if n < 2:
        return Estimate(n, fmean(values) if n else None, None, None, None)
    array = np.asarray(values, dtype=float)
    mean = fmean(values)
    sd = 0.0 if np.ptp(array) == 0 else float(np.std(array, ddof=1))
    half = t_quantile(n) * sd / n**0.5
    return Estimate(n, mean, mean - half, mean + half, sd)


def paired(alternative: Mapping[int, float], baseline: Mapping[int, float]) -> Paired:
    """Compare two schedules by seed: Student's paired t, and the exact sign-flip permutation test for few seeds.

    Both map a seed to a finite value; seeds that only one has are left out.
    """
    seeds = tuple(sorted(alternative.keys() & baseline.keys()))
    first = np.array([alternative[seed] for seed in seeds], dtype=float)
    second = np.array([baseline[seed] for seed in seeds], dtype=float)
    differences = first - second
    if len(seeds) < 2:
        values = tuple(differences.tolist())
        return Paired(seeds, values, estimate(values), None, None)
    # Values that are equal but for rounding would give a t statistic made of rounding errors.
    rounding = 1e-12 * max(float(np.abs(first).max()), float(np.abs(second).max()))
    if np.ptp(differences) <= rounding:
        constant = fmean(differences.tolist())
        constant = 0.0 if abs(constant) <= rounding else constant
        values = (constant,) * len(seeds)
        p_same = 1.0 if constant == 0.0 else 2.0 / 2.0 ** len(seeds)
        return Paired(seeds, values, estimate(values), 1.0 if constant == 0.0 else None, p_same)
    return _tested(seeds, first, second)


def _tested(seeds: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> Paired:
    from scipy import stats

    result = stats.ttest_rel(first, second)
    interval = result.confidence_interval(CONFIDENCE)
    values = tuple((first - second).tolist())
    low, high, sd = float(interval.low), float(interval.high), float(np.std(values, ddof=1))
    shape = Estimate(len(values), fmean(values), low, high, sd)
    p_permutation = None
    if len(values) <= EXACT_SEEDS:
        exact = stats.permutation_test(
            (first, second),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        )
        p_permutation = float(exact.pvalue)
    return Paired(seeds, values, shape, float(result.pvalue), p_permutation)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the given order.

    Holm, S. (1979): A simple sequentially rejective multiple test procedure. Scand. J. Statist. 6, 65-70.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def paired_power(n: int, mean: float, sd: float, alpha: float) -> float:
    """Power of the two-sided paired t test with `n` seeds, were the true difference `mean` and its spread `sd`.

    From the noncentral t distribution: Cohen (1988), Statistical Power Analysis, chapter 2.
    """
    from scipy import stats

    degrees = n - 1
    critical = float(stats.t.ppf(1 - alpha / 2, degrees))
    shift = abs(mean) / sd * n**0.5
    # The tail on the wrong side adds less than alpha / 2 and is not always finite in SciPy.
    return float(stats.nct.sf(critical, degrees, shift))


@lru_cache(maxsize=4096)
def seeds_needed(mean: float, sd: float, alpha: float) -> int | None:
    """Seeds for 80 % power at the two-sided level `alpha`, taking the observed difference and spread as true.

    None where no number helps (`mean` or `sd` is 0) or where more than `MOST_SEEDS` would be needed.
    """
    if mean == 0.0 or sd == 0.0 or paired_power(MOST_SEEDS, mean, sd, alpha) < POWER:
        return None
    low, high = 1, 2  # `low` is too few, `high` is doubled until it is enough
    while paired_power(high, mean, sd, alpha) < POWER:
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if paired_power(middle, mean, sd, alpha) >= POWER else (middle, high)
    return high
