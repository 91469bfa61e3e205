"""Numbers and sentences of a report: how a value is written, what may be claimed and what may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.compare.comparison import Comparison, Difference
from harness.compare.metrics import ACCURACY, COMPARED, FINAL_ACCURACY, LATE_LOSS, LOSS, Compared, Metric, Unit
from harness.compare.results import Result
from harness.compare.stats import ALPHA, MOST_SEEDS, Estimate
from harness.errors import plural

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
    return mean if value.half_width is None else f"{mean} ± {value.half_width * unit.scale:,.{unit.digits}f}"


def change(value: Estimate, unit: Unit) -> str:
    """A signed difference with its interval in brackets: points for accuracy, nats for loss."""
    if value.mean is None:
        return NOTHING
    mean = _signed(value.mean, unit)
    if value.low is None or value.high is None:
        return mean
    return f"{mean} [{_signed(value.low, unit)}, {_signed(value.high, unit)}]"


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


def difference_sentence(difference: Difference, baseline: str) -> str:
    """What one difference allows to say, in plain words."""
    label, metric, pair = difference.label, difference.metric.name, difference.paired
    mean, seeds = pair.estimate.mean, len(pair.seeds)
    if mean is None:
        return f"{label} and {baseline} share no seed, so no claim about their {metric} is possible."
    unit = difference.metric.unit
    size = amount(abs(mean), unit) + unit.suffix
    if difference.p_holm is None:
        return (
            f"{label} {_tendency(mean, size)} {baseline} in {metric} with the one seed that both have "
            f"({pair.seeds[0]}); no claim is possible from one seed."
        )
    if mean == 0.0 and pair.estimate.sd == 0.0:
        return f"{label} and {baseline} have the same {metric} with each of the {plural(seeds, 'seed')}."
    evidence = f"Holm-corrected {_p_clause(difference.p_holm)}, {plural(seeds, 'seed')}"
    interval = _interval(difference, difference.verdict == "undecided")
    # The bare interval may leave out zero where the correction for many tests does not let it decide.
    among = "among so many tests " if difference.paired.p is not None and difference.paired.p < ALPHA else ""
    if difference.verdict == "better":
        return f"{label} beats {baseline} in {metric} by {size} ({interval}{evidence})."
    if difference.verdict == "worse":
        return f"{label} is worse than {baseline} in {metric} by {size} ({interval}{evidence})."
    return (
        f"Nothing can be claimed about {label} and {baseline} in {metric}: {label} "
        f"{_tendency(mean, size)} {baseline}, but {among}that could be chance ({interval}{evidence}). "
        f"{_more_seeds(difference)}"
    )


def _tendency(mean: float, size: str) -> str:
    if mean == 0.0:
        return "is level with"
    return f"is {size} {'above' if mean > 0 else 'below'}"


def _interval(difference: Difference, undecided: bool) -> str:
    """The interval, turned so that it agrees with the sentence: as a size for a claim, signed where nothing is."""
    shape = difference.paired.estimate
    if shape.mean is None or shape.low is None or shape.high is None:
        return ""
    if difference.paired.p_t is None:
        return "the same difference with every seed, so by the permutation test, "
    ends = (shape.low, shape.high) if undecided or shape.mean > 0 else (-shape.high, -shape.low)
    low, high = (amount(end, difference.metric.unit) for end in ends)
    return f"95 % interval {low} to {high}, "


def _more_seeds(difference: Difference) -> str:
    shape, needed = difference.paired.estimate, difference.seeds_needed
    if shape.sd == 0.0:
        return "More seeds would have to show whether the difference ever varies."
    if shape.mean == 0.0:
        return "As observed, the mean difference is zero."
    premise = "If the true difference and its spread are those observed,"
    if needed is None:
        return f"{premise} more than {MOST_SEEDS:,} seeds would be needed to show it."
    more = needed - len(difference.paired.seeds)
    return f"{premise} {plural(needed, 'seed')} in all ({more:,} more) would be needed to show it with 80 % power."


def headline(comparison: Comparison) -> str:
    """Who leads, by how much, and what that is worth."""
    results = comparison.results
    if not results:
        return "No run can be counted, so there is nothing to compare."
    best = results[0]
    if len(results) == 1:
        return f"All counted runs have one schedule, {best.label}: there is nothing to compare."
    second, pair = results[1], comparison.leader
    accuracy = best.of(FINAL_ACCURACY)
    start = (
        f"{best.label} has the highest mean final validation accuracy, {written(accuracy, ACCURACY)} % "
        f"({plural(len(best.variant.runs), 'seed')})"
    )
    if accuracy.mean == second.of(FINAL_ACCURACY).mean:
        level = [result.label for result in results if result.of(FINAL_ACCURACY).mean == accuracy.mean]
        mean = amount(accuracy.mean or 0.0, ACCURACY)
        return f"{listed(level)} share the highest mean final validation accuracy, {mean} %."
    if pair is None or pair.estimate.mean is None:
        return f"{start}; it shares no seed with the runner-up, {second.label}."
    size = f"{amount(abs(pair.estimate.mean), ACCURACY)} points"
    if pair.estimate.low is None or pair.estimate.high is None:
        return f"{start}; it shares one seed with the runner-up, {second.label}, so no claim is possible."
    low, high = (amount(end, ACCURACY) for end in (pair.estimate.low, pair.estimate.high))
    verb = "is ahead of" if pair.estimate.mean >= 0 else "is behind"
    return (
        f"{start}. Over {plural(len(pair.seeds), 'shared seed')} it {verb} the runner-up, {second.label}, by "
        f"{size} (95 % interval {low} to {high}). The pair was picked after seeing the results, so this "
        "describes and does not test."
    )


def sharing(comparison: Comparison) -> str:
    """What the stage store saved, or nothing."""
    trained, reused = comparison.epochs_trained, comparison.epochs_reused
    if not reused:
        return ""
    fewer = f" ({(trained + reused) / trained:.2f} times fewer than each run alone)" if trained else ""
    return f"Of {trained + reused:,} epochs {trained:,} were trained, {reused:,} taken over from other runs{fewer}."


def verdicts(comparison: Comparison) -> list[str]:
    """A sentence for every alternative and metric; of many alternatives only for those with a claim."""
    baseline = comparison.baseline
    if baseline is None:
        return []
    differences = comparison.differences
    if len(differences) <= len(COMPARED) * EACH:
        return [difference_sentence(difference, baseline) for difference in differences]
    claims = [difference for difference in differences if difference.verdict in ("better", "worse")]
    sentences = [difference_sentence(difference, baseline) for difference in claims[:SENTENCES]]
    for metric in COMPARED:
        sentences.append(_count_sentence([d for d in differences if d.metric is metric], metric, baseline))
    return sentences


def _count_sentence(differences: Sequence[Difference], metric: Compared, baseline: str) -> str:
    """How many alternatives have which verdict in a metric, and what it would take to decide one more."""
    counted = Counter(difference.verdict for difference in differences)
    counts = [f"{counted[verdict]:,} {verdict}" for verdict in ("better", "worse", "undecided")]
    silent = counted["no claim"]
    counts += [f"{silent:,} with too few shared seeds for a claim"] if silent else []
    sentence = f"Of {len(differences):,} alternatives to {baseline}, in {metric.name}: {', '.join(counts)}."
    needed = [difference.seeds_needed for difference in differences if difference.seeds_needed is not None]
    if not needed:
        return sentence
    return (
        f"{sentence} To decide the clearest of the undecided with 80 % power, were its observed difference "
        f"the true one, {plural(min(needed), 'seed')} in all would be needed."
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
    lines += _divergences(comparison)
    main = comparison.main
    if main is not None and main.size and max(len(variant.runs) for variant in main.variants) == 1:
        lines.append("Every schedule has one seed: no claim is possible. Three seeds are a start, five are better.")
    # Accuracy is always there, so that a seed which is not paired in it is one that only one schedule has.
    unpaired = {d.label: d.unpaired for d in comparison.differences if d.unpaired and d.metric is FINAL_ACCURACY}
    for label, seeds in list(unpaired.items())[:SENTENCES]:
        both = f"{label} and {comparison.baseline} are compared over the seeds that both have"
        lines.append(f"{both}; not paired: {_seeds(seeds)}.")
    return lines + _permutation_cautions(comparison)


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([str(seed) for seed in seeds])}"


def _divergences(comparison: Comparison) -> list[str]:
    """A sentence for each schedule whose mean losses lack runs, since what they lack is its worst."""
    lines = []
    for result in comparison.results:
        lost = sorted({*result.variant.seeds} - result.values[LATE_LOSS.key].keys())
        if lost:
            lines.append(
                f"{result.label} diverged with {_seeds(lost)}: the validation loss stopped being a number. Mean losses "
                "and differences in loss are over the other seeds and flatter it; the accuracies count all seeds."
            )
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
        decided = difference.verdict in ("better", "worse")
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
