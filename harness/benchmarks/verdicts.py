"""How often a report claims what is not so, and how often what is: simulated sweeps through its own judgement.

Accuracy and loss of a run are normal around their schedule's mean, in units of the spread over seeds, unless a row says
otherwise; runs of one seed and the two metrics of one run are correlated. A false claim is any, about whichever pair in
whichever metric, so it does not matter which baseline a reader prefers. Where he looks again and again, claims count
from any look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.table import Table
from scipy import special

from harness.benchmarks.study import Row, Study, chosen, count, parser, table
from harness.compare.looks import level
from harness.compare.metrics import COMPARED, LATE_ACCURACY
from harness.compare.stats import ALPHA
from harness.compare.verdicts import FEWEST_SEEDS, Difference, Terms, contenders, judge

FALSE, TRUE = "false", "true"
_BETWEEN_RUNS, _BETWEEN_METRICS = 0.3, 0.7  # of the variance that runs of a seed share, and metrics of a run

# From a generator the values of one sweep, (metrics, seeds, schedules), larger being better in both metrics.
Draw = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Scenario:
    """What is simulated: `holds` tells of one sweep whether what is counted happened, `kind` whether it is a fault.

    `sweeps` are multiplied by `share`, where one takes long.
    """

    kind: str
    holds: Callable[[np.random.Generator], bool]
    share: float = 1.0


def main(arguments: Sequence[str]) -> None:
    """Simulate all scenarios, or those asked for."""
    made = parser("verdicts", __doc__, rounds=1)
    made.add_argument("--only", default="", help="scenarios, or how their names begin, with commas between")
    made.add_argument("--sweeps", type=count, default=2000, help="simulated sweeps of each scenario (default: 2000)")
    options = made.parse_intermixed_args(list(arguments))
    _Verdicts(options, [[name] for name in chosen(options.only, list(SCENARIOS))], {"sweeps": options.sweeps}).run()


def normal(means: Sequence[float], seeds: int) -> Draw:
    """Schedules with these means, as often trained."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        shape = (1, seeds, len(means))
        own = _mixed(rng, _BETWEEN_METRICS, rng.standard_normal(shape), (len(COMPARED), *shape[1:]))
        seed = rng.standard_normal((1, seeds, 1))
        values: np.ndarray = np.asarray(means) + np.sqrt(_BETWEEN_RUNS) * seed + np.sqrt(1 - _BETWEEN_RUNS) * own
        return values

    return draw


def _mixed(rng: np.random.Generator, shared: float, common: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mixed: np.ndarray = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal(shape)
    return mixed


def skewed(sigma: float, seeds: int, centre: str) -> Draw:
    """A baseline whose runs fall behind by lognormal amounts, and two schedules with the same mean or median."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        values = 0.2 * normal([0, 0, 0], seeds)(rng)
        behind = np.exp(sigma * _mixed(rng, 0.8, rng.standard_normal((1, seeds)), (len(COMPARED), seeds)))
        values[:, :, 0] -= behind - (np.exp(sigma**2 / 2) if centre == "mean" else 1.0)
        return values

    return draw


def unequal(spreads: Sequence[float], seeds: int) -> Draw:
    """Schedules with equal means, of which some vary more over seeds."""
    return lambda rng: normal([0.0] * len(spreads), seeds)(rng) * np.asarray(spreads)


def judged(values: np.ndarray, terms: Terms = Terms(), best_of: int = 0) -> tuple[Difference, ...]:  # noqa: B008
    """The report's judgement of a sweep; of `best_of` schedules the best one is taken for the baseline."""
    labels = [f"s{number}" for number in range(values.shape[2])]
    signs = [1.0 if metric.higher_is_better else -1.0 for metric in COMPARED]
    schedules = {
        label: {
            metric.key: dict(enumerate((sign * values[place, :, number]).tolist()))
            for place, (metric, sign) in enumerate(zip(COMPARED, signs, strict=True))
        }
        for number, label in enumerate(labels)
    }
    baseline = labels[int(values[0, :, :best_of].mean(axis=0).argmax())] if best_of else labels[0]
    return judge(schedules, baseline, labels[0], terms, exact=False)


def claimed(differences: Sequence[Difference], among: Sequence[str] | None = None) -> bool:
    """Whether any schedule, or any pair of those given, is claimed to be better than another."""
    return any(
        each.ahead is not None and (among is None or {each.label, each.other} <= {*among}) for each in differences
    )


_FIRST, _SECOND = Terms(level(1), level(2)), Terms(level(2), level(3))


def _any_claim(draw: Draw, best_of: int, rng: np.random.Generator) -> bool:
    return claimed(judged(draw(rng), _FIRST, best_of))


def _looking(looks: Sequence[int], rng: np.random.Generator) -> bool:
    """Whether there is a claim at any of these numbers of seeds."""
    values = normal([0, 0, 0], looks[-1])(rng)
    terms = (Terms(level(number), level(number + 1)) for number in range(1, len(looks) + 1))
    return any(claimed(judged(values[:, :seeds], each)) for seeds, each in zip(looks, terms, strict=True))


def _taking_advice(rng: np.random.Generator) -> bool:
    """Whether who begins with 5 seeds, and trains as many as the report says are needed for anything, finds a claim."""
    values, seeds = normal([0, 0, 0], 100)(rng), 5
    for number in range(1, 21):
        found = judged(values[:, :seeds], Terms(level(number), level(number + 1)))
        if claimed(found):
            return True
        needed = [each.seeds_needed.observed for each in found if each.seeds_needed and each.seeds_needed.observed]
        if not needed or min(needed) > values.shape[1]:
            return False
        seeds = max(seeds + 1, min(needed))
    return False


def _interval_misses(schedules: int, rng: np.random.Generator) -> bool:
    return any(
        each.low is not None and each.high is not None and not each.low <= 0 <= each.high
        for each in judged(normal([0.0] * schedules, 5)(rng), _FIRST)
    )


def _against_most(draw: Draw, rng: np.random.Generator) -> bool:
    """Whether the baseline, which is behind in less than half of the seeds, is claimed to be worse."""
    return any(each.ahead not in (None, "s0") for each in judged(draw(rng), _FIRST) if each.other == "s0")


def _best_ruled_out(means: Sequence[float], seeds: int, rng: np.random.Generator) -> bool:
    found, labels = judged(normal(means, seeds)(rng), _FIRST), [f"s{number}" for number in range(len(means))]
    best = {label for label, mean in zip(labels, means, strict=True) if mean == max(means)}
    return any(not best & {*contenders(labels, found, metric)} or best - {*contenders(labels, found, metric)}
               for metric in COMPARED)  # fmt: skip


def _winner_named(means: Sequence[float], seeds: int, rng: np.random.Generator) -> bool:
    """In at least one metric."""
    found, labels = judged(normal(means, seeds)(rng), _FIRST), [f"s{number}" for number in range(len(means))]
    return any(contenders(labels, found, metric) == (labels[int(np.argmax(means))],) for metric in COMPARED)


def _equivalence(means: Sequence[float], margin: float, seeds: int, rng: np.random.Generator) -> bool:
    """Whether two schedules are claimed to differ by less than the margin, in accuracy."""
    found = judged(normal(means, seeds)(rng), Terms(level(1), level(2), margin))
    return any(each.is_within_margin for each in found if each.metric is LATE_ACCURACY)


def _false_with_a_margin(rng: np.random.Generator) -> bool:
    """Any false claim among three schedules of which two are equal and the third is off by the margin."""
    found = judged(normal([0, 0, 1.0], 10)(rng), Terms(level(1), level(2), 1.0))
    equal = claimed(found, ("s0", "s1"))
    return equal or any(each.is_within_margin and "s2" in (each.label, each.other) for each in found)


def _power(effect: float, seeds: int, terms: Terms, rng: np.random.Generator) -> bool:
    """Whether one of two better schedules, of whichever metric, chosen beforehand, is claimed to beat the baseline."""
    found = judged(normal([0, effect, effect], seeds)(rng), terms)
    return next(each.ahead == "s1" for each in found if each.label == "s1" and each.metric is LATE_ACCURACY)


def _power_of_holm(effect: float, seeds: int, rng: np.random.Generator) -> bool:
    """The same by Holm's correction of the differences from the baseline alone, looked at once, at 5 %."""
    values = normal([0, effect, effect], seeds)(rng)
    differences = (values[:, :, 1:] - values[:, :, :1]).transpose(2, 0, 1).reshape(-1, seeds)
    t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / seeds**0.5)
    p = 2 * special.stdtr(seeds - 1, -np.abs(t))
    order = np.argsort(p)
    rejected = np.minimum.accumulate(p[order] * np.arange(len(p), 0, -1) < ALPHA)
    return bool(rejected[list(order).index(0)] and t[0] > 0)


def _power_looking_twice(effect: float, rng: np.random.Generator) -> bool:
    values = normal([0, effect, effect], 10)(rng)
    for seeds, terms in ((5, _FIRST), (10, _SECOND)):
        found = judged(values[:, :seeds], terms)
        if next(each.ahead == "s1" for each in found if each.label == "s1" and each.metric is LATE_ACCURACY):
            return True
    return False


def _scenarios() -> dict[str, Scenario]:
    made: dict[str, Scenario] = {}

    def false(name: str, holds: Callable[..., bool], *arguments: Any, share: float = 1.0) -> None:
        made[name] = Scenario(FALSE, partial(holds, *arguments), share)

    def true(name: str, holds: Callable[..., bool], *arguments: Any) -> None:
        made[name] = Scenario(TRUE, partial(holds, *arguments))

    for schedules, seeds in ((3, 2), (3, 5), (3, 10), (5, 5), (10, 5)):
        draw = normal([0.0] * schedules, seeds)
        false(f"nothing differs: {schedules} schedules, {seeds} seeds", _any_claim, draw, 0)
    for schedules, seeds in ((3, 5), (3, 10)):
        draw = unequal([3.0, *[1.0] * (schedules - 1)], seeds)
        false(f"nothing differs: the baseline varies three times as much, {seeds} seeds", _any_claim, draw, 0)
    false("the baseline is the best of 10 constants: 11 schedules, 5 seeds", _any_claim, normal([0.0] * 11, 5), 10)
    false("looking again: at 5, 10, 15 and 20 seeds", _looking, (5, 10, 15, 20))
    false("looking again: after each seed to 20", _looking, tuple(range(FEWEST_SEEDS, 21)), share=0.5)
    false("looking again: after each seed to 50", _looking, tuple(range(FEWEST_SEEDS, 51)), share=0.5)
    false("looking again: as the report advises", _taking_advice)
    for schedules in (3, 10):
        false(f"an interval leaves out 0: {schedules} schedules, 5 seeds", _interval_misses, schedules)
    for sigma in (0.5, 1.0, 1.5):
        for seeds in (5, 10):
            draw = skewed(sigma, seeds, "median")
            false(f"skewed baseline, equal medians: sigma {sigma:g}, {seeds} seeds", _any_claim, draw, 0)
        draw = skewed(sigma, 5, "mean")
        false(f"skewed baseline, equal means, against most seeds: sigma {sigma:g}, 5 seeds", _against_most, draw)
    false("a best schedule is ruled out: 3 schedules, two equal, 5 seeds", _best_ruled_out, [0, 2, 2], 5)
    false("a best schedule is ruled out: 10 schedules, all equal, 5 seeds", _best_ruled_out, [0.0] * 10, 5)
    false("within the margin, which the difference is: 10 seeds", _equivalence, [0, 1.0], 1.0, 10)
    false("any, with a margin: two equal, a third off by it, 10 seeds", _false_with_a_margin)
    true("within a margin of 2: equal schedules, 10 seeds", _equivalence, [0, 0], 2.0, 10)
    for seeds in (5, 10):
        true(f"one winner is named: 2 ahead of two, {seeds} seeds", _winner_named, [0, 0, 2], seeds)
    for effect, seeds in ((1.5, 5), (2, 5), (1, 10), (1.5, 10)):
        of = f"{effect:g} ahead, {seeds} seeds"
        true(f"power: {of}, Holm against the baseline alone", _power_of_holm, effect, seeds)
        true(f"power: {of}, first look", _power, effect, seeds, _FIRST)
        true(f"power: {of}, second look", _power, effect, seeds, _SECOND)
    true("power: 1 ahead, looking at 5 and at 10 seeds", _power_looking_twice, 1.0)
    return made


SCENARIOS: Mapping[str, Scenario] = _scenarios()


class _Verdicts(Study):
    """A row holds in how many `sweeps` what is counted `happened`."""

    def measure(self, name: str) -> Row:
        scenario = SCENARIOS[name]
        sweeps = max(1, round(self.options.sweeps * scenario.share))
        rng = np.random.default_rng([len(self.rounds[name]), *name.encode()])
        return {"sweeps": sweeps, "happened": sum(scenario.holds(rng) for _ in range(sweeps))}

    def said(self, row: Row) -> str:
        return f"{row['happened'] / row['sweeps']:.1%}"

    def share(self, name: str) -> tuple[float, float]:
        """How often it happened, over all rounds, and the standard error of that."""
        rows = self.results()[name]
        sweeps = sum(row["sweeps"] for row in rows)
        share = sum(row["happened"] for row in rows) / sweeps
        return share, float(np.sqrt(max(share * (1 - share), ALPHA * (1 - ALPHA)) / sweeps))

    def wrong(self) -> list[str]:
        """Of figures that may be 5 % one in forty lies two standard errors above it by chance alone."""
        found = {name: self.share(name) for name in self.results() if SCENARIOS[name].kind == FALSE}
        return [f"{name}: false in {share:.1%}" for name, (share, error) in found.items() if share > ALPHA + 2 * error]

    def table(self) -> Table:
        rows = []
        for name in self.results():
            (share, error), kind = self.share(name), SCENARIOS[name].kind
            figure = f"{share * 100:.1f} ± {error * 100:.1f}"
            rows.append((name, figure if kind == FALSE else "", figure if kind == TRUE else ""))
        return table("What a report claims of simulated sweeps", ["scenario"], ["false, %", "true, %"], rows)
