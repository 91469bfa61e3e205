"""Writes a comparison down: report.md, report.html, comparison.json, runs.csv and the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.compare.comparison import CURVES, Comparison, compare
from harness.compare.grid import find_grid
from harness.compare.load import load_runs
from harness.errors import UserError
from harness.files import write_atomic
from harness.report.blocks import Picture
from harness.report.content import report_blocks
from harness.report.exports import runs_csv, to_json
from harness.report.render import html_page, markdown, terminal_text

PICTURES = ("lr.png", "curves.png", "heatmap.png", "budget.png")


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
    from harness.report import plots  # matplotlib is slow to import and needed only now

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
