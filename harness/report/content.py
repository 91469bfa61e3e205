"""The content of a report as a list of blocks, which report.md and report.html merely write down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.compare.comparison import Comparison, Difference
from harness.compare.groups import Group, setting_text
from harness.compare.results import DECAY_FACTOR, Decay, Result
from harness.compare.stats import Estimate
from harness.errors import plural
from harness.report import words
from harness.report.blocks import ROWS, Block, Bullets, Cell, Heading, Paragraph, Picture, Table

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
    return blocks + _method(comparison)


def scope(comparison: Comparison) -> str:
    """What is compared: how many runs, of what, and what was left aside."""
    main, found = comparison.main, len(comparison.runs.runs)
    if main is None:
        return f"{plural(found, 'run')} found, none of which can be counted."
    seeds = {seed for variant in main.variants for seed in variant.seeds}
    known = {"model.name": "model", "data.name": "data", "optimizer._target_": "optimizer"}
    facts = [f"{name} {main.identity[key]}" for key, name in known.items() if key in main.identity]
    parts = [
        plural(main.size, "run"),
        plural(len(main.variants), "schedule"),
        plural(len(seeds), "seed"),
        plural(main.epochs, "epoch"),
        *facts,
    ]
    lengths = sum(group.size for group in comparison.other_lengths)
    apart = sum(group.size for group in comparison.groups[1:]) - lengths
    rest = [f"{lengths:,} with other numbers of epochs in the budget curve"] if lengths else []
    rest += [f"{apart:,} kept apart as not comparable"] if apart else []
    rest += [f"{len(comparison.left_out):,} left out"] if comparison.left_out else []
    aside = f" Of {plural(found, 'run')} found, {words.listed(rest)}." if rest else ""
    return " ".join(filter(None, (f"{', '.join(parts)}.{aside}", words.sharing(comparison))))


def _bullets(items: Sequence[str]) -> list[Block]:
    return [Bullets(tuple(items))] if items else []


def _cut(rows: Sequence[tuple[Cell, ...]], what: str) -> list[Block]:
    """A sentence that says how many rows a table leaves out, where it does."""
    if len(rows) <= ROWS:
        return []
    more = len(rows) - ROWS
    return [Paragraph(f"{more:,} more {what} are in comparison.json; runs.csv has every run.")]


def result_columns() -> tuple[str, ...]:
    """Titles of the main table."""
    return (
        "Schedule",
        "Seeds",
        "Val acc. %",
        "Best val acc. %",
        "Val loss",
        "Late val loss",
        "Test acc. %",
        "Epochs to target",
        "Seconds to target",
        "Best epoch",
        "Late spread, points",
        "Images/s",
    )


def result_row(result: Result, baseline: str | None) -> tuple[Cell, ...]:
    """A result as a row of the main table."""
    mark, total = " (baseline)" if result.label == baseline else "", len(result.variant.runs)
    return (
        Cell(result.label + mark),
        Cell(str(total), total),
        Cell(words.percent(result.final_val_accuracy), result.final_val_accuracy.mean),
        Cell(words.percent(result.best_val_accuracy), result.best_val_accuracy.mean),
        Cell(_loss(result.final_val_loss, total), result.final_val_loss.mean),
        Cell(_loss(result.late_val_loss, total), result.late_val_loss.mean),
        Cell(words.percent(result.test_accuracy), result.test_accuracy.mean),
        Cell(words.target_text(result, result.epochs_to_target, 1), result.epochs_to_target.mean),
        Cell(words.target_text(result, result.seconds_to_target, 1), result.seconds_to_target.mean),
        Cell(words.with_half_width(result.best_epoch, 1), result.best_epoch.mean),
        Cell(words.percent(result.spread), result.spread.mean),
        Cell(words.with_half_width(result.images_per_second, 0), result.images_per_second.mean),
    )


def _loss(value: Estimate, total: int) -> str:
    return words.of_runs(words.loss(value), value.n, total)


def _results(comparison: Comparison) -> list[Block]:
    if not comparison.results:
        return []
    baseline = comparison.baseline
    rows = tuple(result_row(result, baseline) for result in comparison.leading(ROWS))
    legend = (
        "Mean ± half width of the 95 % interval (Student's t) over the seeds. Ranked by final validation "
        "accuracy; the test accuracy is shown and never ranked on. Losses are in nats. Best epoch counts "
        "from 0. Late val loss: mean validation loss over the last tenth of the epochs (at least two). Late "
        f"spread: highest less lowest validation accuracy in the same epochs. {words.target_note(comparison)}"
    )
    cut = len(comparison.results) - len(rows)
    more = [Paragraph(f"{cut:,} more schedules are in comparison.json; runs.csv has every run.")] if cut else []
    return [Heading("Results"), Table(result_columns(), rows), *more, Paragraph(legend)]


def _differences(comparison: Comparison) -> list[Block]:
    if comparison.baseline is None:
        return []
    rank = {result.label: place for place, result in enumerate(comparison.results)}
    ordered = sorted(comparison.differences, key=lambda d: (d.metric == "late_val_loss", rank[d.label]))
    rows = [_difference_row(difference) for difference in ordered]
    columns = (
        "Alternative",
        "Metric",
        "Seeds",
        "Difference [95 % interval]",
        "p, paired t",
        "p, permutation",
        "p, Holm",
        "Verdict",
    )
    accuracy = rows[: len(rows) // 2]
    loss = rows[len(rows) // 2 :]
    table = Table(columns, (*accuracy[:ROWS], *loss[:ROWS]))
    text = (
        "Alternative less baseline, paired by seed, in percentage points of final accuracy and nats of late loss, "
        "which a last epoch that happened to be good or bad moves little. "
        f"Baseline: {comparison.baseline} ({comparison.baseline_chosen}). Holm's correction covers all "
        f"{plural(comparison.tests, 'test')} of this table, both metrics together. The intervals are "
        "not corrected."
    )
    return [
        Heading(f"Differences from {comparison.baseline}"),
        table,
        *_cut(accuracy, "alternatives"),
        Paragraph(text),
    ]


def _difference_row(difference: Difference) -> tuple[Cell, ...]:
    pair, metric = difference.paired, difference.metric
    unit = "late loss" if metric == "late_val_loss" else "accuracy"
    return (
        Cell(difference.label),
        Cell(unit),
        Cell(str(len(pair.seeds)), len(pair.seeds)),
        Cell(words.change(pair.estimate, metric), pair.estimate.mean),
        Cell(words.p_text(pair.p_t), pair.p_t),
        Cell(words.p_text(pair.p_permutation), pair.p_permutation),
        Cell(words.p_text(difference.p_holm), difference.p_holm),
        Cell(difference.verdict),
    )


def _budget(comparison: Comparison) -> list[Block]:
    if not comparison.budget:
        return []
    rows = [
        (
            Cell(point.label),
            Cell(str(point.epochs), point.epochs),
            Cell(words.listed([str(epoch) for epoch in point.decays])),
            Cell(str(point.seeds), point.seeds),
            Cell(words.percent(point.final_val_accuracy), point.final_val_accuracy.mean),
            Cell(words.loss(point.final_val_loss), point.final_val_loss.mean),
            Cell(words.percent(point.test_accuracy), point.test_accuracy.mean),
        )
        for point in comparison.budget
    ]
    columns = ("Schedule", "Epochs in all", "Decays at", "Seeds", "Val acc. %", "Val loss", "Test acc. %")
    text = "What each total number of epochs brought, each with its own decays; nothing else differs between the rows."
    return [Heading("What a budget of epochs buys"), Paragraph(text), Table(columns, tuple(rows))]


def _schedules(comparison: Comparison) -> list[Block]:
    if not comparison.results:
        return []
    rows = []
    for result in comparison.leading(ROWS):
        variant = result.variant
        settings = {**variant.arguments, **variant.settings}
        text = ", ".join(f"{key}={setting_text(value)}" for key, value in settings.items())
        seeds = words.listed([str(seed) for seed in variant.seeds], 12)
        rows.append((Cell(variant.label), Cell(variant.target), Cell(text or words.NOTHING), Cell(seeds)))
    return [Heading("Schedules"), Table(("Schedule", "Class", "Settings", "Seeds"), tuple(rows))]


def _apart(comparison: Comparison) -> list[Block]:
    apart = [pair for pair in comparison.apart if pair[0] not in comparison.other_lengths]
    if not apart:
        return []
    blocks: list[Block] = [
        Heading("Kept apart"),
        Paragraph(
            "These runs were made under other circumstances than the ones above and are not averaged or "
            "compared with them. To compare them among themselves, give their folders alone."
        ),
    ]
    columns = result_columns()[:6]
    for number, (group, results) in enumerate(apart[:KEPT_APART], start=1):
        rows = tuple(result_row(result, None)[:6] for result in results[:ROWS])
        blocks += [
            Heading(f"Group {number}: {plural(group.size, 'run')}", 3),
            Bullets(tuple(_difference_lines(group))),
            Table(columns, rows),
        ]
        if len(results) > ROWS:
            blocks.append(Paragraph(f"{len(results) - ROWS:,} more schedules are in comparison.json."))
    if len(apart) > KEPT_APART:
        more = len(apart) - KEPT_APART
        blocks.append(Paragraph(f"{plural(more, 'more group')} in comparison.json."))
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
    runs = {run.name: run for run in comparison.runs.runs}
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
    problems = comparison.runs.problems
    if problems:
        more = len(problems) - ROWS
        lines = [*problems[:ROWS], *([f"{more:,} more in comparison.json"] if more > 0 else [])]
        blocks += [Heading("What was not sound in the files"), *_bullets(lines)]
    return blocks


def _method(comparison: Comparison) -> list[Block]:
    return [
        Heading("Method"),
        Bullets(
            (
                "Runs are compared only if all that can change a result is equal: data and split, model, "
                "optimizer, batch size, precision, device, code and library versions, number of epochs. "
                "Optimizer settings and batch size may differ where a sweep varied them; they then belong to "
                "the schedule's name.",
                "Validation is a held-out part of the training data. The test set serves no choice made here.",
                "Differences are paired by seed: the seed sets initial weights and the order of the images, "
                "so a pair differs by the schedule alone. Two-sided paired t test; exact sign-flip "
                "permutation test up to twelve seeds; Holm (1979) over all tests. Claims are made at a "
                "corrected p below 0.05.",
                "Seeds needed come from the noncentral t distribution at the level 0.05 divided by the "
                "number of tests. They take the observed difference for the true one, which is optimistic "
                "after a lucky start.",
                "With more than one seed, intervals describe the spread over seeds for this data split; "
                "another split would add its own.",
            )
        ),
    ]


def decay_blocks(comparison: Comparison) -> list[Block]:
    """Heading, table and explanation; nothing without results."""
    if not comparison.results:
        return []
    rule = (
        f"A decay is an epoch whose learning rate is at most {DECAY_FACTOR:g} times that of the epoch "
        "before: of a smooth schedule such as cosine the last few epochs at most. The arrow leads from the "
        "end of the last epoch at the old rate to the end of up to three epochs at the new one, fewer if the "
        "next decay or the end comes first. Changes are means over seeds with the 95 % interval; the "
        "baseline's change over the same epochs shows what time alone would have brought."
    )
    if not comparison.decays:
        return [Heading("What each decay did"), Paragraph(f"No schedule has a decay. {rule}")]
    columns = (
        "Schedule",
        "Epoch",
        "Rate times",
        "Epochs after",
        "Val acc. %",
        "Change, points",
        "Baseline's, points",
        "Val loss",
        "Change, nats",
        "Baseline's, nats",
    )
    rows = tuple(_decay_row(decay) for decay in _shown(comparison.decays))
    more = len(comparison.decays) - len(rows)
    cut = [Paragraph(f"{plural(more, 'more decay', 'more decays')} in comparison.json.")] if more else []
    return [Heading("What each decay did"), Table(columns, rows), *cut, Paragraph(rule)]


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


def _decay_row(decay: Decay) -> tuple[Cell, ...]:
    accuracy, loss = "accuracy", "loss"
    return (
        Cell(decay.label),
        Cell(str(decay.epoch), decay.epoch),
        Cell(f"{decay.factor:.3g}", decay.factor),
        Cell(str(decay.epochs_after), decay.epochs_after),
        Cell(_from_to(decay.accuracy_before, decay.accuracy_after, accuracy), decay.accuracy_after.mean),
        Cell(words.change(decay.accuracy_change, accuracy), decay.accuracy_change.mean),
        Cell(words.change(decay.baseline_accuracy_change, accuracy), decay.baseline_accuracy_change.mean),
        Cell(_from_to(decay.loss_before, decay.loss_after, loss), decay.loss_after.mean),
        Cell(words.change(decay.loss_change, loss), decay.loss_change.mean),
        Cell(words.change(decay.baseline_loss_change, loss), decay.baseline_loss_change.mean),
    )


def _from_to(before: Estimate, after: Estimate, metric: str) -> str:
    if before.mean is None or after.mean is None:
        return words.NOTHING
    return f"{words.amount(before.mean, metric)} → {words.amount(after.mean, metric)}"
