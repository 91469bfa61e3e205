"""Writes a comparison down: report.md, report.html, comparison.json, runs.csv and the pictures."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import report_words as words
from harness.blocks import ROWS, Block, Bullets, Heading, Paragraph, Picture, Table
from harness.compare import CURVES, Comparison, Run, compare, load_runs
from harness.compare_groups import Group, flat, setting_text
from harness.compare_json import to_json
from harness.compare_results import epochs_to, seconds_to, throughput
from harness.errors import UserError
from harness.files import write_atomic
from harness.report_blocks import left_out_lines, report_blocks, result_columns, result_row, scope
from harness.report_grid import find_grid
from harness.report_html import html_page

PICTURES = ("lr.png", "curves.png", "heatmap.png", "budget.png")
_WIDTH = 110  # characters of a line on the terminal
_TERMINAL_LINES = 10  # left-out runs and groups that the terminal names; the report names more


@dataclass(frozen=True)
class Report:
    """What was written: `text` is table and sentences for a terminal, `files` the paths, report.md first."""

    text: str
    files: tuple[Path, ...]
    comparison: Comparison


def write_report(
    folders: Sequence[Path],
    output: Path,
    baseline: str | None = None,
    target_accuracy: float | None = None,
) -> Report:
    """Compare the runs in and below `folders` and write the report into the folder `output`.

    Each file is written whole or not at all. A picture of an earlier report that has no successor is removed.
    Raises `UserError`, before anything is written, if there is no run, the baseline or the target does not
    fit, or `output` cannot be a folder.
    """
    comparison = compare(load_runs(folders), baseline, target_accuracy)
    pictures, drawings = _draw(comparison)
    blocks = report_blocks(comparison, pictures)
    contents: dict[str, str | bytes] = {
        "report.md": markdown(blocks),
        "report.html": html_page(blocks, {name: drawing.svg for name, drawing in drawings.items()}),
        "comparison.json": json.dumps(to_json(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "runs.csv": runs_csv(comparison),
        **{name: drawing.png for name, drawing in drawings.items()},
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: the report cannot be written there: {error.strerror}") from error
    for name, content in contents.items():
        _write(output / name, content)
    for name in PICTURES:
        if name not in contents:
            (output / name).unlink(missing_ok=True)
    return Report(terminal_text(comparison), tuple(output / name for name in contents), comparison)


def _draw(comparison: Comparison) -> tuple[list[Picture], Mapping[str, Any]]:
    """The pictures that there is something to show in, with their captions, and their drawings by file
    name.
    """
    if not comparison.results:
        return [], {}
    from harness import report_plots as plots  # matplotlib is slow to import and needed only now

    drawn = [PICTURES[0], PICTURES[1]]
    drawings = {drawn[0]: plots.draw_rates(comparison), drawn[1]: plots.draw_curves(comparison)}
    left = len(comparison.results) - len(comparison.leading(CURVES))
    rest = f" The {left:,} lower ranked schedules are not drawn." if left else ""
    captions = [
        f"Learning rate that each epoch was trained with.{rest}",
        "Mean over the seeds; the band is the 95 % interval (Student's t). A triangle marks a decay. Where "
        f"the first epochs would flatten the rest, they are cut off.{rest}",
    ]
    grid = find_grid(comparison.results)
    if grid is not None:
        drawings[PICTURES[2]] = plots.draw_heat_map(grid)
        drawn.append(PICTURES[2])
        captions.append(
            f"{grid.schedule}: mean final validation accuracy by {grid.row_name} and {grid.column_name}. The "
            "frame marks the best cell; the best of many is partly luck."
        )
    if comparison.budget:
        drawings[PICTURES[3]] = plots.draw_budget(comparison.budget)
        drawn.append(PICTURES[3])
        captions.append(
            "Final validation accuracy by total number of epochs, each run with its own decays: mean over the "
            "seeds, and 95 % interval."
        )
    return [Picture(name, caption) for name, caption in zip(drawn, captions, strict=True)], drawings


def _write(path: Path, content: str | bytes) -> None:
    # A folder's name need not be Unicode, and run.json may name half a surrogate pair.
    data = content.encode(errors="replace") if isinstance(content, str) else content
    write_atomic(path, lambda file: file.write(data))


def markdown(blocks: Sequence[Block]) -> str:
    """report.md as text."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escaped(text)}"
        case Paragraph(text):
            return _escaped(text)
        case Bullets(items):
            return "\n".join(f"- {_escaped(item)}" for item in items)
        case Picture(name, caption):
            return f"![{_escaped(caption)}]({name})\n\n{_escaped(caption)}"
        case Table(columns, rows):
            numeric = [any(row[index].value is not None for row in rows) for index in range(len(columns))]
            lines = [list(columns), ["---:" if is_number else "---" for is_number in numeric]]
            lines += [[_escaped(cell.text) for cell in row] for row in rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def terminal_text(comparison: Comparison) -> str:
    """Table and sentences for a terminal, without pictures and details."""
    parts = [textwrap.fill(scope(comparison), _WIDTH)]
    if comparison.results:
        rows = [
            [cell.text for cell in result_row(result, comparison.baseline)[:7]] for result in comparison.leading(ROWS)
        ]
        parts.append(_aligned([list(result_columns()[:7]), *rows]))
        hidden = len(comparison.results) - len(rows)
        if hidden:
            parts.append(f"{hidden:,} more schedules are in comparison.json; runs.csv has every run.")
        note = (
            "Mean ± half width of the 95 % interval over seeds; ranked by final validation accuracy, never by test. "
            f"{words.target_note(comparison)}"
        )
        parts.append(textwrap.fill(note, _WIDTH))
    parts += [_budget_lines(comparison)] if comparison.budget else []
    sentences = [words.headline(comparison), *words.verdicts(comparison), *words.cautions(comparison)]
    parts.append("\n".join(_item(sentence) for sentence in sentences))
    apart = [group for group in comparison.groups[1:] if group not in comparison.other_lengths]
    if apart:
        lines = [_apart_line(group) for group in apart]
        parts.append("Kept apart:\n" + _some(lines))
    if comparison.left_out:
        parts.append("Left out:\n" + _some(left_out_lines(comparison, _TERMINAL_LINES)))
    if comparison.runs.problems:
        parts.append("Not sound in the files:\n" + _some(list(comparison.runs.problems)))
    return "\n\n".join(parts)


def _budget_lines(comparison: Comparison) -> str:
    rows = [
        [point.label, str(point.epochs), words.percent(point.final_val_accuracy), words.loss(point.final_val_loss)]
        for point in comparison.budget
    ]
    return _aligned([["By total epochs", "Epochs", "Val acc. %", "Val loss"], *rows])


def _apart_line(group: Group) -> str:
    keys = words.listed(list(group.differs), 5)
    return f"{words.plural(group.size, 'run that differs', 'runs that differ')} in {keys}"


def _some(lines: Sequence[str]) -> str:
    shown_lines = list(lines[: _TERMINAL_LINES + 1])
    if len(lines) > len(shown_lines):
        shown_lines.append(f"{len(lines) - len(shown_lines):,} more, in the report")
    return "\n".join(_item(line) for line in shown_lines)


def _item(text: str) -> str:
    return textwrap.fill(f"- {text}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left and the others to the right, under a line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def runs_csv(comparison: Comparison) -> str:
    """One line a run with all its settings, results and status; columns that no run fills are not there."""
    places = {
        run.name: (number, variant.label)
        for number, group in enumerate(comparison.groups)
        for variant in group.variants
        for run in variant.runs
    }
    rows = [_run_row(run, comparison, places.get(run.name)) for run in comparison.runs.runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _run_row(run: Run, comparison: Comparison, place: tuple[int, str] | None) -> dict[str, Any]:
    final = run.final
    target = comparison.target_accuracy
    settings = {f"scheduler.{key}": value for key, value in flat(run.arguments).items()} | dict(run.identity)
    return {
        "run": run.name,
        "schedule": place[1] if place else run.scheduler,
        "group": "" if place is None else "main" if place[0] == 0 else f"apart {place[0]}",
        "status": run.status,
        "counted": "yes" if place else "no",
        "reason": comparison.left_out.get(run.name, ""),
        "seed": run.seed,
        "epochs": run.epochs,
        "final_val_accuracy": final.val_accuracy if final else None,
        "final_val_loss": final.val_loss if final else None,
        "best_val_accuracy": run.best_val_accuracy,
        "best_epoch": run.best_epoch,
        "final_train_accuracy": final.train_accuracy if final else None,
        "final_train_loss": final.train_loss if final else None,
        "test_accuracy": run.test_accuracy,
        "test_loss": run.test_loss,
        "epochs_to_target": epochs_to(run, target),
        "seconds_to_target": seconds_to(run, target),
        "images_per_second": throughput(run),
        "seconds": run.seconds,
        "epochs_trained": run.epochs_trained,
        "epochs_reused": run.epochs_reused,
        "weights_sha256": run.weights,
        "scheduler": run.scheduler,
        "scheduler_target": run.target,
        **{key: setting_text(value) for key, value in settings.items() if key not in ("seed", "epochs")},
        "overrides": " ".join(run.overrides),
        "folder": str(run.folder),
    }
