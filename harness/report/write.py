"""Writes a comparison down: report.md, report.html, comparison.json, runs.csv, epochs.csv, results.tex and pictures.

The folder figures/ has each picture as SVG and PDF too, as wide as a column of a paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.compare.comparison import Comparison, compare
from harness.compare.load import Loaded, load_runs
from harness.compare.looks import look_at, read_looks, write_looks
from harness.errors import UserError
from harness.files import read_object, write_atomic
from harness.record import COMPLETED
from harness.report.blocks import Picture
from harness.report.content import report_blocks
from harness.report.exports import epochs_csv, made_now, runs_csv, to_json, with_time_kept
from harness.report.latex import results_tex
from harness.report.render import html_page, markdown, terminal_text
from harness.report.words import listed

_FIGURES = "figures"


@dataclass(frozen=True)
class Report:
    """What was written: `text` is table and sentences for a terminal, `files` the paths, report.md first.

    The folder of figures stands for what is in it.
    """

    text: str
    files: tuple[Path, ...]
    comparison: Comparison


def write_report(
    folders: Sequence[Path],
    output: Path,
    baseline: str | None = None,
    target_accuracy: float | None = None,
    margin: float | None = None,
    jobs: int | None = None,
) -> Report:
    """Compare the runs in and below `folders` and write the report into the folder `output`.

    Each file is written whole or not at all. A picture of an earlier report that has no successor is removed. Of a
    sweep that has not ended nothing is claimed, unless `jobs` are enough to have completed. The look at the results is
    noted beside the report, and in the folders' own reports.

    Raises:
        UserError: before anything is written, if there is no run, the baseline, target or margin does not fit, or
            `output` cannot be a folder.
    """
    loaded = load_runs(folders)
    reports = [folder / "report" for folder in folders if (folder / "report").is_dir()]
    looks = read_looks([output, *reports])
    comparison = compare(loaded, baseline, target_accuracy, margin, looks, _withheld(loaded, jobs))
    from harness.report.plots import PICTURES  # matplotlib is slow to import and needed only now

    drawn = {name: draw(comparison) for name, draw in PICTURES.items()} if comparison.results else {}
    drawings = {name: drawing for name, drawing in drawn.items() if drawing is not None}
    blocks = report_blocks(comparison, [Picture(name, drawing.caption) for name, drawing in drawings.items()])
    made = made_now()
    document = with_time_kept(to_json(comparison, made), read_object(output / "comparison.json"))
    contents: dict[str, str | bytes | Iterator[str]] = {
        "report.md": markdown(blocks),
        "report.html": html_page(blocks, {name: drawing.svg for name, drawing in drawings.items()}),
        "comparison.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "runs.csv": runs_csv(comparison),
        "epochs.csv": epochs_csv(comparison),
        "results.tex": results_tex(comparison, made),
        **{name: drawing.png for name, drawing in drawings.items()},
    }
    figures = {f"{_FIGURES}/{Path(n).stem}{end}": data for n, d in drawings.items() for end, data in d.paper.items()}
    try:
        (output / _FIGURES if figures else output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: the report cannot be written there: {error.strerror}") from error
    for name, content in (contents | figures).items():
        # A folder's name need not be Unicode, and run.json may name half a surrogate pair.
        texts = [content] if isinstance(content, str) else content
        pieces = texts if isinstance(texts, bytes) else (text.encode(errors="replace") for text in texts)
        write_atomic(output / name, pieces)
    for name in PICTURES.keys() - drawings.keys():
        for old in (name, *(f"{_FIGURES}/{Path(name).stem}{end}" for end in (".svg", ".pdf"))):
            (output / old).unlink(missing_ok=True)
    if comparison.main is not None and comparison.can_claim:
        looks = looks.with_(look_at(comparison.main))
        write_looks(output, looks)
        for other in reports:
            if other != output:
                with suppress(UserError):  # a folder that may only be read
                    write_looks(other, looks)
    files = (*contents, *([_FIGURES] if figures else []))
    return Report(terminal_text(comparison), tuple(output / name for name in files), comparison)


def _withheld(loaded: Loaded, jobs: int | None) -> str:
    """Why nothing is to be claimed yet, or nothing."""
    done = sum(run.status == COMPLETED for run in loaded.runs)
    if not loaded.unfinished or (jobs is not None and done >= max(1, jobs)):
        return ""
    names = listed([str(folder) for folder in loaded.unfinished], 3)
    return (
        f"The sweep in {names} has not ended. What can be claimed is said when it has, so that nobody stops where "
        "chance favours a schedule; scripts/compare.py with --now says it of the runs there are, and counts as a look."
    )
