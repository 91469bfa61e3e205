"""The statistics of a comparison: interval, paired difference, equivalence, number of seeds.

Distributions and tests are SciPy's; it is imported when a test is asked for, since its import takes most of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from statistics import NormalDist, fmean

import numpy as np

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
EXACT_SEEDS = 12  # 2^12 sign patterns; beyond that the exact test is not made
_NORMAL = NormalDist()
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

    @property
    def agreeing(self) -> int:
        """The seeds whose difference has the sign of the mean."""
        mean = self.estimate.mean or 0.0
        return sum(difference * mean > 0 for difference in self.differences)

    @property
    def p_sign(self) -> float:
        """The chance that so many seeds or more agree in the sign of the mean difference, were either as likely."""
        from scipy import special

        return float(special.bdtrc(self.agreeing - 1, len(self.seeds), 0.5)) if self.agreeing else 1.0

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """Student's interval at the confidence 1 - `alpha`; None with fewer than two seeds."""
        shape = self.estimate
        if shape.mean is None or shape.sd is None:
            return None
        half = t_quantile(shape.n, alpha) * shape.sd / shape.n**0.5
        return shape.mean - half, shape.mean + half

    def p_equivalent(self, margin: float) -> float | None:
        """The p value of the true difference being `margin` or more in size; None with fewer than two seeds.

        Schuirmann, D. J. (1987): A comparison of the two one-sided tests procedure. J. Pharmacokinet. Biopharm. 15.
        """
        from scipy import special

        shape = self.estimate
        if shape.mean is None or shape.sd is None:
            return None
        room = margin - abs(shape.mean)
        if shape.sd == 0.0:
            return 0.5 ** len(self.seeds) if room > 0 else 1.0
        return float(special.stdtr(shape.n - 1, -room / (shape.sd / shape.n**0.5)))


@lru_cache(maxsize=4096)
def t_quantile(n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """How many standard errors of a mean over `n` >= 2 values lie on each side of its interval at 1 - `alpha`."""
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - alpha / 2))


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


def paired(alternative: Mapping[int, float], baseline: Mapping[int, float], permutation: bool = True) -> Paired:
    """Compare two schedules by seed: Student's paired t and, if wanted, the exact sign-flip permutation test.

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
    from scipy import special

    values = tuple(differences.tolist())
    shape = estimate(values)
    assert shape.mean is not None
    assert shape.sd is not None
    p_t = 2 * float(special.stdtr(len(values) - 1, -abs(shape.mean) / (shape.sd / len(values) ** 0.5)))
    wanted = permutation and len(values) <= EXACT_SEEDS
    return Paired(seeds, values, shape, p_t, _permutation_p(first, second) if wanted else None)


def _permutation_p(first: np.ndarray, second: np.ndarray) -> float:
    from scipy import stats

    exact = stats.permutation_test(
        (first, second),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    return float(exact.pvalue)


def p_of_rates(only_first: int, only_second: int) -> float:
    """The exact p value of one of two schedules failing more often, by the seeds in which one alone failed.

    McNemar, Q. (1947): Note on the sampling error of the difference between correlated proportions. Psychometrika 12.
    """
    from scipy import special

    discordant = only_first + only_second
    return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0


@dataclass(frozen=True)
class SeedsNeeded:
    """Seeds for 80 % power if the true effect is the one observed, and if it lies at the ends of its 80 % interval.

    None where more than `MOST_SEEDS` are needed, or no number is enough.
    """

    observed: int | None
    fewest: int | None
    most: int | None


def seeds_needed(pair: Paired, alpha: float) -> SeedsNeeded | None:
    """What it would take to show a difference at the two-sided level `alpha`; None if it never varied, or is zero."""
    mean, sd, n = pair.estimate.mean, pair.estimate.sd, len(pair.seeds)
    if not mean or not sd:
        return None
    small, large = effect_interval(abs(mean) / sd, n)
    return SeedsNeeded(*(_seeds_for(effect, alpha) for effect in (abs(mean) / sd, large, small)))


def effect_interval(effect: float, n: int) -> tuple[float, float]:
    """The 80 % interval of the true mean over its spread, after `effect` was observed over `n` >= 2 seeds.

    By the large-sample variance of Hedges and Olkin (1985), Statistical Methods for Meta-Analysis, chapter 5.
    """
    half = _NORMAL.inv_cdf(0.9) * (1 / n + effect**2 / (2 * n)) ** 0.5
    return effect - half, effect + half


def _seeds_for(effect: float, alpha: float) -> int | None:
    """Seeds for 80 % power of the two-sided paired t test, to within one.

    Guenther, W. C. (1981): Sample size formulas for normal theory t tests. The American Statistician 35, 243-244.
    """
    if effect <= 0.0:
        return None
    critical = _NORMAL.inv_cdf(1 - alpha / 2)
    seeds = ((critical + _NORMAL.inv_cdf(POWER)) / effect) ** 2 + critical**2 / 2
    return max(2, ceil(seeds)) if seeds <= MOST_SEEDS else None
