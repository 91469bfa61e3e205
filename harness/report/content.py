"""The content of a report as a list of blocks, which report.md and report.html merely write down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from harness.compare.comparison import Comparison
from harness.compare.decays import NEAR, Decay
from harness.compare.groups import Group, Variant, setting_text
from harness.compare.metrics import ACCURACY, APART, COMPARED, LOSS, METRICS, REPORT, SUSTAINED, Metric, Unit
from harness.compare.results import DECAY_FACTOR, BudgetPoint, Result
from harness.compare.stats import Estimate
from harness.compare.verdicts import Difference
from harness.errors import plural
from harness.report import words
from harness.report.blocks import ROWS, Block, Bullets, Cell, Column, Heading, Paragraph, Picture, Table, table

KEPT_APART = 10  # groups that get a table each


def report_blocks(comparison: Comparison, pictures: Sequence[Picture]) -> list[Block]:
    """The whole report, in reading order."""
    blocks: list[Block] = [Heading("Learning-rate schedules compared", 1), Paragraph(scope(comparison))]
    blocks += _results(comparison)
    blocks += [Heading("What can be claimed"), Paragraph(words.headline(comparison))]
    blocks += _bullets([*words.verdicts(comparison), *words.cautions(comparison)])
    blocks += _differences(comparison)
    if pictures:
        blocks += [Heading("Pictures"), *pictures]
    blocks += _budget(comparison)
    blocks += decay_blocks(comparison)
    blocks += _schedules(comparison)
    blocks += _apart(comparison)
    blocks += _left_out(comparison)
    return [*blocks, Heading("Method"), Bullets(_METHOD)]


def scope(comparison: Comparison) -> str:
    """What is compared: how many runs, of what, and what was left aside."""
    main, runs = comparison.main, plural(len(comparison.runs), "run")
    if main is None:
        return f"{runs} found, none of which can be counted."
    seeds = {seed for variant in main.variants for seed in variant.seeds}
    known = {"model.name": "model", "data.name": "data", "optimizer._target_": "optimizer"}
    facts = [f"{name} {main.identity[key]}" for key, name in known.items() if key in main.identity]
    counts = {"run": main.size, "schedule": len(main.variants), "seed": len(seeds), "epoch": main.epochs}
    parts = [*(plural(count, what) for what, count in counts.items()), *facts]
    lengths = sum(group.size for group in comparison.other_lengths)
    apart = sum(group.size for group in comparison.groups[1:]) - lengths
    rest = [f"{lengths:,} with other numbers of epochs in the budget curve"] if lengths else []
    rest += [f"{apart:,} kept apart as not comparable"] if apart else []
    rest += [f"{len(comparison.left_out):,} left out"] if comparison.left_out else []
    aside = f" Of {runs} found, {words.listed(rest)}." if rest else ""
    return " ".join(filter(None, (f"{', '.join(parts)}.{aside}", words.sharing(comparison))))


def _bullets(items: Sequence[str]) -> list[Block]:
    return [Bullets(tuple(items))] if items else []


def not_shown(count: int, what: str, place: str = "comparison.json; runs.csv has every run") -> list[str]:
    """A sentence that says how many of the `count` rows a table leaves out, where it does."""
    return [f"{count - ROWS:,} more {what} in {place}."] if count > ROWS else []


def _number(value: int) -> Cell:
    return Cell(str(value), value)


def _mean(value: Estimate, unit: Unit) -> Cell:
    return Cell(words.written(value, unit), value.mean)


def _change(value: Estimate, unit: Unit) -> Cell:
    return Cell(words.change(value, unit), value.mean)


def _p(value: float | None) -> Cell:
    return Cell(words.p_text(value), value)


def results_table(results: Iterable[Result], where: str, baseline: str | None = None) -> Table:
    """The table of results for one of `harness.compare.metrics.EVERY_TABLE`."""

    def metric_column(metric: Metric) -> Column[Result]:
        return Column(metric.title, lambda result: Cell(words.metric_text(result, metric), result.of(metric).mean))

    columns = [
        Column[Result]("Schedule", lambda r: Cell(f"{r.label} (baseline)" if r.label == baseline else r.label)),
        Column("Seeds", lambda result: _number(len(result.variant.runs))),
        *(metric_column(metric) for metric in METRICS if where in metric.tables),
    ]
    return table(columns, results)


def _results(comparison: Comparison) -> list[Block]:
    if not comparison.results:
        return []
    legend = (
        "Mean ± half width of the 95 % interval (Student's t) over the seeds, for each row by itself. Ranked by late "
        "validation accuracy; the test accuracy is shown and never ranked on. Late: the mean over the last tenth of "
        "the epochs (at least two); a single last epoch is shown and not tested. The best epoch's accuracy is the "
        "highest of many that chance moves, and so flatters every row by what it is above the late one. A run that "
        "ended no better than guessing has guessing's late loss. Losses are in nats. Best epoch counts from 0. Late "
        f"spread: highest less lowest validation accuracy in the late epochs. {words.target_note(comparison)} A run "
        f"meets it once the mean accuracy of its last {SUSTAINED} epochs does, and these are in its time. Times are "
        "means over the runs that met it, and flatter a schedule of which some did not."
    )
    shown = results_table(comparison.leading(ROWS), REPORT, comparison.baseline)
    more = [Paragraph(text) for text in not_shown(len(comparison.results), "schedules are")]
    return [Heading("Results"), shown, *more, Paragraph(legend)]


_DIFFERENCE_COLUMNS: tuple[Column[Difference], ...] = (
    Column("Schedule", lambda difference: Cell(difference.label)),
    Column("less", lambda difference: Cell(difference.other)),
    Column("Metric", lambda difference: Cell(difference.metric.short)),
    Column("Seeds", lambda difference: _number(len(difference.paired.seeds))),
    Column(
        "Difference [for all at once]",
        lambda difference: Cell(words.simultaneous(difference), difference.paired.estimate.mean),
    ),
    Column("p, paired t", lambda difference: _p(difference.paired.p_t)),
    Column("p, permutation", lambda difference: _p(difference.paired.p_permutation)),
    Column("p, corrected", lambda difference: _p(difference.p_corrected)),
    Column("Verdict", lambda difference: Cell(difference.verdict)),
)


def shown_differences(comparison: Comparison) -> tuple[Difference, ...]:
    """As many of the differences as a table has room for, those from the baseline first."""
    first = [row for metric in COMPARED for row in [d for d in comparison.differences if d.metric is metric][:ROWS]]
    return (*first, *(comparison.others if len(comparison.others) <= ROWS else ()))


def _differences(comparison: Comparison) -> list[Block]:
    if not (shown := shown_differences(comparison)):
        return []
    text = (
        f"Paired by seed, in {words.listed([metric.measured for metric in COMPARED])}: each schedule less the "
        f"baseline, {comparison.baseline} ({comparison.baseline_chosen}), then all other pairs. "
        f"{words.terms_text(comparison)} The intervals hold for all pairs at once; a claim may be made where one just "
        "touches 0, since its test goes step by step."
    )
    left = len(comparison.others)
    more = [f"{left:,} more pairs are in comparison.json."] if left > ROWS else []
    return [
        Heading("Differences"),
        table(_DIFFERENCE_COLUMNS, shown),
        *(Paragraph(sentence) for sentence in not_shown(len(comparison.results) - 1, "alternatives are")),
        *map(Paragraph, more),
        Paragraph(text),
    ]


_BUDGET_COLUMNS: tuple[Column[BudgetPoint], ...] = (
    Column("Schedule", lambda point: Cell(point.label)),
    Column("Epochs in all", lambda point: _number(point.epochs)),
    Column("Decays at", lambda point: Cell(words.listed([str(epoch) for epoch in point.decays]))),
    Column("Seeds", lambda point: _number(point.seeds)),
    Column("Val acc. %", lambda point: _mean(point.final_val_accuracy, ACCURACY)),
    Column("Val loss", lambda point: _mean(point.final_val_loss, LOSS)),
    Column("Test acc. %", lambda point: _mean(point.test_accuracy, ACCURACY)),
)


def _budget(comparison: Comparison) -> list[Block]:
    if not comparison.budget:
        return []
    text = "What each total number of epochs brought, each with its own decays; nothing else differs between the rows."
    return [Heading("What a budget of epochs buys"), Paragraph(text), table(_BUDGET_COLUMNS, comparison.budget)]


def _settings(variant: Variant) -> str:
    settings = {**variant.arguments, **variant.settings}
    return ", ".join(f"{key}={setting_text(value)}" for key, value in settings.items()) or words.NOTHING


_SCHEDULE_COLUMNS: tuple[Column[Variant], ...] = (
    Column("Schedule", lambda variant: Cell(variant.label)),
    Column("Class", lambda variant: Cell(variant.target)),
    Column("Settings", lambda variant: Cell(_settings(variant))),
    Column("Seeds", lambda variant: Cell(words.listed([str(seed) for seed in variant.seeds], 12))),
)


def _schedules(comparison: Comparison) -> list[Block]:
    if not comparison.results:
        return []
    variants = [result.variant for result in comparison.leading(ROWS)]
    return [Heading("Schedules"), table(_SCHEDULE_COLUMNS, variants)]


def _apart(comparison: Comparison) -> list[Block]:
    apart = [pair for pair in comparison.apart if pair[0] not in comparison.other_lengths]
    if not apart:
        return []
    text = (
        "These runs were made under other circumstances than the ones above and are not averaged or "
        "compared with them. To compare them among themselves, give their folders alone."
    )
    blocks: list[Block] = [Heading("Kept apart"), Paragraph(text)]
    for number, (group, results) in enumerate(apart[:KEPT_APART], start=1):
        blocks += [
            Heading(f"Group {number}: {plural(group.size, 'run')}", 3),
            Bullets(tuple(_difference_lines(group))),
            results_table(results[:ROWS], APART),
            *(Paragraph(text) for text in not_shown(len(results), "schedules are", "comparison.json")),
        ]
    if len(apart) > KEPT_APART:
        blocks.append(Paragraph(f"{plural(len(apart) - KEPT_APART, 'more group')} in comparison.json."))
    return blocks


def _difference_lines(group: Group) -> list[str]:
    lines = [f"{key}: {_value(here)} instead of {_value(main)}" for key, (main, here) in group.differs.items()]
    names = [run.name for variant in group.variants for run in variant.runs]
    return [*lines, f"runs: {words.listed(names, 5)}"]


def _value(value: object) -> str:
    text = "nothing" if value is None else setting_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def left_out_lines(comparison: Comparison, most: int) -> list[str]:
    """The runs that are in no statistic, with the reason; at most so many, the rest are counted."""
    runs = {run.name: run for run in comparison.runs}
    lines = []
    for name, reason in list(comparison.left_out.items())[:most]:
        status = "" if runs[name].status in reason or runs[name].counts else f"{runs[name].status}: "
        lines.append(f"{name}: {status}{reason if len(reason) <= 300 else reason[:297] + '...'}")
    if len(comparison.left_out) > most:
        lines.append(f"{len(comparison.left_out) - most:,} more, each with its reason in runs.csv")
    return lines


def _left_out(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = []
    if comparison.left_out:
        blocks += [Heading("Runs left out of the statistics"), *_bullets(left_out_lines(comparison, ROWS))]
    if problems := comparison.problems:
        more = len(problems) - ROWS
        lines = [*problems[:ROWS], *([f"{more:,} more in comparison.json"] if more > 0 else [])]
        blocks += [Heading("What was not sound in the files"), *_bullets(lines)]
    return blocks


_METHOD = (
    "Runs are compared only if all that can change a result is equal: data and split, model, optimizer, batch size, "
    "precision, device, code and library versions, number of epochs. Optimizer settings and batch size may differ "
    "where a sweep varied them; they then belong to the schedule's name.",
    "Validation is a held-out part of the training data. The test set serves no choice made here.",
    "Differences are paired by seed: the seed sets initial weights and the order of the images, so a pair differs by "
    "the schedule alone. Two-sided paired t test; exact sign-flip permutation test up to twelve seeds. A claim takes a "
    "corrected p below 0.05, and so many seeds that agree with the sign of the mean that a fair coin would give them "
    "in less than one of five cases.",
    "All pairs of schedules in all compared metrics are tested together (of more than 40 schedules those with the "
    "baseline and with the best, corrected as if all were), so a claim may be read whichever baseline one prefers, "
    "and the schedules of which none is claimed to be worse than another hold the best one with 95 % probability. Up "
    "to six schedules: the closed test (Marcus, Peritz and Gabriel 1976) with Simes' weighted test (Hochberg and "
    "Liberman 1994); more: Holm's weighted test (1979). Four fifths of the weight lie on the pairs with the schedule "
    "called constant, where there is one.",
    "A look is a report on these runs or some of them. Of the 5 %, 4.25 are spent on the first and the rest on all "
    "later ones (Lan and DeMets 1983), so that adding seeds until something can be claimed does not make it false more "
    "often. The looks so far are noted in looks.json beside the report.",
    "Seeds needed are for the level of the next look (Guenther 1981). They take the observed difference for the true "
    "one, which is optimistic after a lucky start; the range is that of its 80 % interval.",
    "Intervals describe the spread over seeds, for the validation images that these runs have: with "
    "data.split_seed=null "
    "each seed has its own.",
)


_DECAY_COLUMNS: tuple[Column[Decay], ...] = (
    Column("Schedule", lambda decay: Cell(decay.label)),
    Column("Epoch", lambda decay: _number(decay.epoch)),
    Column("Rate times", lambda decay: Cell(f"{decay.factor:.3g}", decay.factor)),
    Column("Epochs compared", lambda decay: Cell(f"{_epochs(*decay.before)} → {_epochs(*decay.after)}")),
    Column("Seeds", lambda decay: _number(decay.accuracy_change.n)),
    Column("Val acc. %", lambda decay: _from_to(decay.accuracy_before, decay.accuracy_after, ACCURACY)),
    Column("Change, points", lambda decay: _change(decay.accuracy_change, ACCURACY)),
    Column("Effect, points", lambda decay: _change(decay.accuracy_effect, ACCURACY)),
    Column("Val loss", lambda decay: _from_to(decay.loss_before, decay.loss_after, LOSS)),
    Column("Change, nats", lambda decay: _change(decay.loss_change, LOSS)),
    Column("Effect, nats", lambda decay: _change(decay.loss_effect, LOSS)),
    Column("Effect is against", lambda decay: Cell(_reference(decay))),
)


def _epochs(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _reference(decay: Decay) -> str:
    if decay.reference is None:
        return words.NOTHING
    seeds = decay.accuracy_effect.n
    fewer = "" if seeds == decay.accuracy_change.n else f", {plural(seeds, 'seed')}"
    return f"{decay.reference}, {'same' if decay.same_state else 'other'} state{fewer}"


def decay_blocks(comparison: Comparison) -> list[Block]:
    """Heading, table and explanation; nothing without results."""
    if not comparison.results:
        return []
    rule = (
        f"A decay is an epoch whose learning rate is at most {DECAY_FACTOR:g} times that of the epoch "
        "before: of a smooth schedule such as cosine the last few epochs at most. The arrow leads from the mean over "
        f"the second half of the last {NEAR} epochs before the decay to that over the second half of the first {NEAR} "
        "from it on, or of as many as there are to the end or the next decay of a run compared. The effect is the "
        "change less what another run of the same seed changed by over the same epochs: in the same state one that had "
        "trained the very same epochs and then kept its rate, which is what the run would have been without the decay; "
        "in another state the baseline, if it does not decay there, whose change also holds what else sets the two "
        "apart. Means over seeds with the 95 % interval, described and not tested; runs that diverged are left out. An "
        "effect so soon after a decay need not last: what a schedule brings in the end, the results say."
    )
    if not comparison.decays:
        return [Heading("What each decay did"), Paragraph(f"No schedule has a decay. {rule}")]
    more = len(comparison.decays) - ROWS
    cut = [Paragraph(f"{plural(more, 'more decay', 'more decays')} in comparison.json.")] if more > 0 else []
    return [Heading("What each decay did"), table(_DECAY_COLUMNS, _shown(comparison.decays)), *cut, Paragraph(rule)]


def _shown(decays: Sequence[Decay]) -> list[Decay]:
    """The decays for the table, in the given order: each schedule's first before any schedule's second, and so on.

    A schedule that decays in every epoch would else fill the table alone.
    """
    seen: Counter[str] = Counter()
    turns = []
    for place, decay in enumerate(decays):
        turns.append((seen[decay.label], place))
        seen[decay.label] += 1
    return [decays[place] for place in sorted(place for _, place in sorted(turns)[:ROWS])]


def _from_to(before: Estimate, after: Estimate, unit: Unit) -> Cell:
    if before.mean is None or after.mean is None:
        return Cell(words.NOTHING, after.mean)
    return Cell(f"{words.amount(before.mean, unit)} → {words.amount(after.mean, unit)}", after.mean)
