"""The part of a report on what each decay of the learning rate did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness import report_words as words
from harness.blocks import ROWS, Block, Cell, Heading, Paragraph, Table
from harness.compare import Comparison, Decay
from harness.compare_results import DECAY_FACTOR
from harness.compare_stats import Estimate


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
    cut = [Paragraph(f"{words.plural(more, 'more decay', 'more decays')} in comparison.json.")] if more else []
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
