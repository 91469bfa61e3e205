"""Numbers and sentences of a report: how a value is written, what may be claimed and what may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.compare.comparison import Comparison
from harness.compare.groups import has_own_split
from harness.compare.metrics import (
    ACCURACY,
    COMPARED,
    LATE_ACCURACY,
    LATE_LOSS,
    LOSS,
    Compared,
    Metric,
    Unit,
    diverged,
)
from harness.compare.results import Result
from harness.compare.stats import ALPHA, MOST_SEEDS, Estimate, p_of_rates
from harness.compare.verdicts import MOST_BY_SIGN, Difference, Terms
from harness.errors import plural

CLAIMS = ("better", "worse", "equivalent")
NOTHING = "-"  # for a number that does not exist
EACH = 4  # up to so many alternatives get a sentence for each metric
SENTENCES = 10  # claims that get a sentence where there are more alternatives


def listed(items: Sequence[str], most: int = 8) -> str:
    """`a`, `a and b`, `a, b and c`; beyond `most` items the rest are counted."""
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"{len(items) - most:,} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def written(value: Estimate, unit: Unit) -> str:
    """Mean and half width of the interval, `91.20 ± 0.45`."""
    if value.mean is None:
        return NOTHING
    mean = f"{value.mean * unit.scale:,.{unit.digits}f}"
    if unit is ACCURACY and value.low is not None and value.high is not None and (value.low < 0 or value.high > 1):
        low, high = (f"{min(max(end, 0.0), 1.0) * 100:.{unit.digits}f}" for end in (value.low, value.high))
        return f"{mean} [{low}, {high}]"
    return mean if value.half_width is None else f"{mean} ± {value.half_width * unit.scale:,.{unit.digits}f}"


def change(value: Estimate, unit: Unit) -> str:
    """A signed difference with its interval in brackets: points for accuracy, nats for loss."""
    if value.mean is None:
        return NOTHING
    mean = _signed(value.mean, unit)
    if value.low is None or value.high is None:
        return mean
    return f"{mean} [{_signed(value.low, unit)}, {_signed(value.high, unit)}]"


def simultaneous(difference: Difference) -> str:
    """A difference with the interval that holds for all pairs at once."""
    shape = replace(difference.paired.estimate, low=difference.low, high=difference.high)
    return change(shape, difference.metric.unit)


def amount(value: float, unit: Unit) -> str:
    """A difference as a bare number: percentage points with two decimals, nats with four."""
    text = f"{value * unit.scale:.{unit.digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _signed(value: float, unit: Unit) -> str:
    text = amount(value, unit)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def p_text(p: float | None) -> str:
    """A p value with two significant digits."""
    if p is None:
        return NOTHING
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:#.2g}" if p < 0.995 else "1.0"


def _p_clause(p: float) -> str:
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def difference_sentence(difference: Difference, terms: Terms) -> str:
    """What one difference allows to say, in plain words."""
    label, other, metric, pair = difference.label, difference.other, difference.metric.name, difference.paired
    mean, seeds = pair.estimate.mean, len(pair.seeds)
    if mean is None:
        return f"{label} and {other} share no seed, so no claim about their {metric} is possible."
    unit = difference.metric.unit
    size = amount(abs(mean), unit) + unit.suffix
    if difference.p_corrected is None:
        return (
            f"{label} {_tendency(mean, size)} {other} in {metric} with the one seed that both have "
            f"({pair.seeds[0]}); no claim is possible from one seed."
        )
    if mean == 0.0 and pair.estimate.sd == 0.0:
        return f"{label} and {other} have the same {metric} with each of the {plural(seeds, 'seed')}."
    evidence = f"corrected {_p_clause(difference.p_corrected)}, in {pair.agreeing} of {plural(seeds, 'seed')}"
    close = f" {_CLOSE}" if difference.is_close else ""
    if difference.ahead is not None:
        interval = _interval(difference, signed=False)
        does = "beats" if difference.ahead == label else "is worse than"
        within = f" That is within the margin of {_margin(terms)}." if difference.is_within_margin else ""
        return f"{label} {does} {other} in {metric} by {size} ({interval}{evidence}).{within}{close}"
    interval = _interval(difference, signed=True)
    if difference.verdict == "equivalent":
        p = _p_clause(difference.p_equivalent or 0.0)
        return f"{label} and {other} differ in {metric} by less than {_margin(terms)} ({interval}corrected {p})."
    few = pair.p_sign > MOST_BY_SIGN and difference.p_corrected < ALPHA
    why = "that rests on few of the seeds" if few else "that could be chance"
    return (
        f"Nothing can be claimed about {label} and {other} in {metric}: {label} {_tendency(mean, size)} {other}, but "
        f"{why} ({interval}{evidence}).{close} {_more_seeds(difference)}"
    )


_CLOSE = "That is close to the threshold of 0.05: another version of a library may turn it."


def _margin(terms: Terms) -> str:
    return f"{amount(terms.margin or 0.0, ACCURACY)} points"


def _tendency(mean: float, size: str) -> str:
    if mean == 0.0:
        return "is level with"
    return f"is {size} {'above' if mean > 0 else 'below'}"


def _interval(difference: Difference, signed: bool) -> str:
    """The interval that holds for all pairs at once, turned to agree with the sentence: as a size for a claim."""
    shape, (low, high) = difference.paired.estimate, (difference.low, difference.high)
    if shape.mean is None or low is None or high is None:
        return ""
    if difference.paired.p_t is None:
        return "the same difference with every seed, so by the permutation test, "
    ends = (low, high) if signed or shape.mean > 0 else (-high, -low)
    texts = [amount(end, difference.metric.unit) for end in ends]
    return f"simultaneous interval {texts[0]} to {texts[1]}, "


def _more_seeds(difference: Difference) -> str:
    shape, needed = difference.paired.estimate, difference.seeds_needed
    if shape.sd == 0.0:
        return "More seeds would have to show whether the difference ever varies."
    if needed is None:
        return "As observed, the mean difference is zero."
    premise = "At the next look, if the true difference and its spread are those observed,"
    if needed.observed is None:
        return f"{premise} more than {MOST_SEEDS:,} seeds would be needed to show it."
    more = needed.observed - len(difference.paired.seeds)
    most = f"to {needed.most:,}" if needed.most is not None else "upwards without limit"
    return (
        f"{premise} {plural(needed.observed, 'seed')} in all ({more:,} more) would be needed to show it with 80 % "
        f"power ({needed.fewest or 2:,} {most} over the 80 % interval of these)."
    )


def headline(comparison: Comparison) -> str:
    """Which schedule won, or which ones may be the best."""
    results = comparison.results
    if not results:
        return "No run can be counted, so there is nothing to compare."
    if len(results) == 1:
        return f"All counted runs have one schedule, {results[0].label}: there is nothing to compare."
    if comparison.withheld:
        return comparison.withheld
    if not comparison.tests:
        return f"Which schedule won cannot be said: none shares two seeds with another. {_highest(comparison)}"
    sole = {metric: names[0] for metric, names in _contenders(comparison) if len(names) == 1}
    winners = list(dict.fromkeys(sole.values()))
    if len(winners) == 1 and len(sole) == len(COMPARED):
        others = [result.label for result in results if result.label != winners[0]]
        return f"{winners[0]} won: it beats {listed(others)} in {listed([metric.name for metric in COMPARED])}."
    sentences = [_may_be_best(comparison, metric, names) for metric, names in _contenders(comparison)]
    if winners:
        start = " and ".join(f"{name} in {metric.name}" for metric, name in sole.items())
        return f"The winner is {start}. {' '.join(sentences)}"
    if any(len(names) < len(results) for _, names in _contenders(comparison)):
        return f"No single schedule won. {' '.join(sentences)}"
    return f"No schedule won: every one of them may be the best. {_highest(comparison)}"


def _contenders(comparison: Comparison) -> list[tuple[Compared, tuple[str, ...]]]:
    return [(metric, comparison.contenders[metric.key]) for metric in COMPARED]


def _may_be_best(comparison: Comparison, metric: Compared, names: Sequence[str]) -> str:
    out = [result.label for result in comparison.results if result.label not in names]
    if not out:
        return f"In {metric.name} every schedule may be the best."
    ruled_out = f"{listed(out)} {'is' if len(out) == 1 else 'are'} ruled out"
    if len(names) == 1:
        return f"In {metric.name} {names[0]} beats {listed(out)}."
    return f"In {metric.name} the best is one of {listed(names)}; {ruled_out}."


def _highest(comparison: Comparison) -> str:
    """The highest mean, which is a description and no claim."""
    best = comparison.results[0]
    mean = best.of(LATE_ACCURACY).mean
    level = [result.label for result in comparison.results if result.of(LATE_ACCURACY).mean == mean]
    verb = "has" if len(level) == 1 else "share"
    return (
        f"{listed(level)} {verb} the highest mean {LATE_ACCURACY.name}, {written(best.of(LATE_ACCURACY), ACCURACY)} % "
        f"({plural(len(best.variant.runs), 'seed')})."
    )


def sharing(comparison: Comparison) -> str:
    """What the stage store saved, or nothing."""
    trained, reused = comparison.epochs_trained, comparison.epochs_reused
    if not reused:
        return ""
    fewer = f" ({(trained + reused) / trained:.2f} times fewer than each run alone)" if trained else ""
    return f"Of {trained + reused:,} epochs {trained:,} were trained, {reused:,} taken over from other runs{fewer}."


def verdicts(comparison: Comparison) -> list[str]:
    """A sentence for every claim, then for every other difference from the baseline; of many only for claims."""
    terms, differences = comparison.terms, comparison.differences
    claims = [difference for difference in comparison.pairs if difference.verdict in CLAIMS]
    if len(differences) <= len(COMPARED) * EACH:
        said = [*claims, *(difference for difference in differences if difference not in claims)]
        return [difference_sentence(difference, terms) for difference in said]
    sentences = [difference_sentence(difference, terms) for difference in claims[:SENTENCES]]
    for metric in COMPARED:
        sentences.append(_count_sentence(comparison, metric))
    return sentences


def _count_sentence(comparison: Comparison, metric: Compared) -> str:
    """How many pairs have which verdict in a metric, and what it would take to decide one more."""
    pairs = [pair for pair in comparison.pairs if pair.metric is metric]
    claimed = sum(pair.verdict in CLAIMS for pair in pairs)
    sentence = (
        f"In {metric.name} {plural(claimed, 'claim')} can be made about the {plural(len(pairs), 'pair')} looked at; "
        f"{len(comparison.contenders[metric.key]):,} of {len(comparison.results):,} schedules may be the best."
    )
    needed = [pair.seeds_needed.observed for pair in pairs if pair.seeds_needed and pair.seeds_needed.observed]
    if not needed:
        return sentence
    return (
        f"{sentence} To decide the clearest of the undecided with 80 % power, were its observed difference "
        f"the true one, {plural(min(needed), 'seed')} in all would be needed."
    )


def terms_text(comparison: Comparison) -> str:
    """How many tests and looks the claims allow for."""
    tests, look, level = comparison.tests, comparison.look, comparison.terms.level
    if not tests:
        return ""
    first = "the first look at these runs" if look == 1 else f"look {look} at these runs or some of them"
    return (
        f"Corrected for all {plural(tests, 'test')}, whichever schedule is taken for the baseline, and for looking "
        f"again: this is {first}, at which any false claim has a chance of {level * 100:.2g} %, and of 5 % over all "
        "looks."
    )


def cautions(comparison: Comparison) -> list[str]:
    """What limits the claims: one schedule under two names, diverged runs, one seed, unpaired seeds, a permutation
    test that is too coarse or disagrees.
    """
    lines = [
        f"{listed(labels)} have the same learning rate in every epoch: they are one schedule under several names and "
        "are not merged here."
        for labels in comparison.equal_plans[:SENTENCES]
    ]
    lines += _divergences(comparison) + _choice_of_images(comparison)
    main = comparison.main
    if main is not None and main.size and max(len(variant.runs) for variant in main.variants) == 1:
        lines.append("Every schedule has one seed: no claim is possible. Three seeds are a start, five are better.")
    # Accuracy is always there, so that a seed which is not paired in it is one that only one schedule has.
    unpaired = {d.label: d.unpaired for d in comparison.differences if d.unpaired and d.metric is LATE_ACCURACY}
    for label, seeds in list(unpaired.items())[:SENTENCES]:
        both = f"{label} and {comparison.baseline} are compared over the seeds that both have"
        lines.append(f"{both}; not paired: {_seeds(seeds)}.")
    return lines + _permutation_cautions(comparison)


def _choice_of_images(comparison: Comparison) -> list[str]:
    """What the number of validation images is worth, and whether the intervals cover which ones they are."""
    main = comparison.main
    counts = [run.val_images for variant in main.variants for run in variant.runs] if main is not None else []
    known = [count for count in counts if count]
    if main is None or not known or len(known) < len(counts):
        return []
    best, images = comparison.results[0], min(known)
    accuracy = best.of(LATE_ACCURACY)
    binomial = ((accuracy.mean or 0.0) * (1 - (accuracy.mean or 0.0)) / images) ** 0.5
    moved = (
        f"which {images:,} they are moves an accuracy of {written(replace(accuracy, high=None), ACCURACY)} % by "
        f"{amount(binomial, ACCURACY)} points (binomial standard error)"
    )
    if not has_own_split(main.variants[0].runs[0]):
        return [
            f"All runs are validated on the same images, for which the intervals hold; {moved}. data.split_seed=null "
            "gives each seed its own, and intervals that cover the choice."
        ]
    if not accuracy.sd:
        return [f"Each seed has validation images of its own, so the intervals cover their choice; {moved}."]
    share = min(1.0, binomial**2 / accuracy.sd**2)
    helps = "more of them (data.val_fraction)" if share > 0.5 else "more seeds"
    return [
        f"Each seed has validation images of its own, so the intervals cover their choice; {moved}, which is "
        f"about {share:.0%} of the variance of {best.label} over seeds: {helps} would narrow them most."
    ]


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([str(seed) for seed in seeds])}"


def _divergences(comparison: Comparison) -> list[str]:
    """A sentence for each schedule with runs that diverged, what they count as, and whether it has more of them."""
    lost = {result.label: {run.seed for run in result.variant.runs if diverged(run)} for result in comparison.results}
    lines = []
    for result in comparison.results:
        seeds = sorted(seed for seed in lost[result.label] if seed is not None)
        if not seeds:
            continue
        known = len(result.values[LATE_LOSS.key]) == len(result.variant.runs)
        counts = "Its late loss there counts as that of guessing" if known else (
            "Mean losses and differences in loss are over the other seeds and flatter it; the accuracies count all "
            "seeds"
        )  # fmt: skip
        many = f"{len(seeds)} of {plural(len(result.variant.runs), 'run')}"
        line = f"{result.label} diverged with {_seeds(seeds)} ({many}): at the end no better than guessing. {counts}."
        if comparison.baseline is not None and result.label != comparison.baseline:
            theirs, ours = lost[comparison.baseline], lost[result.label]
            p = p_of_rates(len(ours - theirs), len(theirs - ours))
            line += f" That it diverges more or less often than {comparison.baseline}: exact {_p_clause(p)}."
        lines.append(line)
    return lines[:SENTENCES]


def _permutation_cautions(comparison: Comparison) -> list[str]:
    lines = []
    least_p = {len(d.paired.seeds): d.paired.smallest_permutation_p for d in comparison.differences}
    coarse = [(seeds, p) for seeds, p in sorted(least_p.items()) if p is not None and p > ALPHA]
    if coarse:
        least = [f"{p_text(p)} with {plural(seeds, 'seed')}" for seeds, p in coarse]
        lines.append(
            f"The exact permutation test cannot reach 0.05 with fewer than six seeds (its smallest p is "
            f"{listed(least)}), so claims rest on the t test, which takes the differences as roughly normal."
        )
    for difference in comparison.differences:
        p, smallest = difference.paired.p_permutation, difference.paired.smallest_permutation_p
        decided = difference.ahead is not None
        if decided and p is not None and smallest is not None and smallest <= ALPHA < p:
            lines.append(
                f"The permutation test does not support the claim about {difference.label} in "
                f"{difference.metric.name} ({_p_clause(p)}): look at the single seeds."
            )
    return lines


def target_note(comparison: Comparison) -> str:
    """What the target accuracy is and how it was chosen."""
    if comparison.target_accuracy is None:
        return f"Target accuracy: {comparison.target_chosen}."
    return f"Target accuracy {comparison.target_accuracy * 100:g} % ({comparison.target_chosen})."


def metric_text(result: Result, metric: Metric) -> str:
    """The mean of a metric, and over how many of the runs where not all have it: a run that diverged has no loss, one
    that never met the target no time to it.
    """
    value = result.of(metric)
    text, total = written(value, metric.unit), len(result.variant.runs)
    if metric.to_target:
        return _of_runs(text, result.reached, total) if result.reached else "never"
    return _of_runs(text, value.n, total) if metric.unit is LOSS and value.n else text


def _of_runs(text: str, counted: int, total: int) -> str:
    return text if counted == total else f"{text} ({counted} of {total} runs)"
