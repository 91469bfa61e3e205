"""A report written down: as one page that needs no network, as Markdown, and for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape

from harness.compare.comparison import Comparison
from harness.compare.groups import Group
from harness.compare.metrics import ACCURACY, LOSS, TERMINAL
from harness.errors import plural, printable
from harness.report import words
from harness.report.blocks import ROWS, Block, Bullets, Cell, Heading, Paragraph, Picture, Table
from harness.report.content import left_out_lines, not_shown, results_table, scope

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --page: #fff; --line: #d0d7de; --band: #f6f8fa }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --quiet: #9aa4b0; --page: #14171b; --line: #363c44; --band: #1d2127 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem; max-width: 84rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0 0 .5rem } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p, li { max-width: 60rem }
.scroll { position: relative; overflow-x: auto }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums }
caption { position: absolute; clip-path: inset(50%) } /* the heading above says it to those who see */
th, td { padding: .35rem .45rem; text-align: right; border-bottom: 1px solid var(--line) }
thead th { background: var(--band); vertical-align: bottom; overflow-wrap: normal }
td { white-space: nowrap }
th:first-child, td.text, th.text { text-align: left }
td.text { white-space: normal; min-width: 7rem; max-width: 26rem }
tbody th { font-weight: normal; min-width: 10rem; max-width: 22rem }
th button { all: unset; cursor: pointer }
th button:focus-visible, .scroll:focus-visible { outline: 2px solid currentColor }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
tbody tr:hover { background: var(--band) }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto; color: var(--ink) }
figcaption { color: var(--quiet); font-size: .9rem; max-width: 60rem }
@page { size: landscape; margin: 12mm }
@media print {
  body { padding: 0; max-width: none; font-size: 9pt }
  .scroll { overflow: visible }
  table { font-size: 7.5pt }
  th, td { padding: .2rem .3rem; white-space: normal } td.text, tbody th { min-width: 4rem }
  thead th { max-width: 5rem } tbody th { max-width: 12rem } /* lest these make numbers wrap */
  figure svg { max-height: 150mm }
  th button { display: contents } /* else the head is empty on the next page */
  h2, h3 { break-after: avoid } tr, figure { break-inside: avoid }
}
"""
_SORT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const th = button.parentElement, body = th.closest("table").tBodies[0], column = th.cellIndex;
  const down = th.getAttribute("aria-sort") !== "descending";
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => {
    const x = key(a), y = key(b);
    const byNumber = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
    return byNumber ? x - y : x.localeCompare(y);
  };
  const rows = [...body.rows].sort((a, b) => down ? order(b, a) : order(a, b));
  for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
});
"""


def html_page(blocks: Sequence[Block], drawings: Mapping[str, str]) -> str:
    """The page as text; `drawings` holds the SVG of each picture by its file name."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body, heading = [], title
    for block in blocks:
        heading = block.text if isinstance(block, Heading) else heading
        body.append(_block(block, heading, drawings))
    main = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{main}\n</main>\n<script>{_SORT}</script>\n</body>\n</html>\n"
    )


def _block(block: Block, heading: str, drawings: Mapping[str, str]) -> str:
    """A block in HTML; `heading` is the last one at or above it."""
    match block:
        case Heading(text, level):
            return f"<h{level}>{_html(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_html(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_html(item)}</li>" for item in items) + "</ul>"
        case Table(columns, rows):
            return _table(heading, columns, rows)
        case Picture(name, caption):
            drawing = _inline(drawings[name], caption)
            return f"<figure>{drawing}<figcaption>{_html(caption)}</figcaption></figure>"


def _table(name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    text = [all(row[index].value is None for row in rows) for index in range(len(columns))]
    kinds = [' class="text"' if is_text else "" for is_text in text]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{_html(column.strip())}</button></th>'
        for column, kind in zip(columns, kinds, strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{_html(row[0].text)}</th>'
        + "".join(_cell(cell, kind) for cell, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    # Only what has the focus can be scrolled by the keyboard.
    return (
        f'<div class="scroll" role="region" aria-label="{_html(name)}" tabindex="0"><table>'
        f"<caption>{_html(name)}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: Cell, kind: str) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{kind}{value}>{_html(cell.text)}</td>"


def _inline(svg: str, caption: str) -> str:
    """The drawing without its XML prologue and metadata, named for screen readers."""
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{_html(caption)}" ', 1)


def _html(text: str) -> str:
    return escape(printable(text))


_WIDTH = 110  # characters of a line on the terminal
_TERMINAL_LINES = 10  # left-out runs and groups that the terminal names; the report names more


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
    return " ".join(printable(text).split())


def terminal_text(comparison: Comparison) -> str:
    """Table and sentences for a terminal, without pictures and details."""
    parts = [textwrap.fill(scope(comparison), _WIDTH)]
    if comparison.results:
        shown = results_table(comparison.leading(ROWS), TERMINAL, comparison.baseline)
        parts.append(_aligned([shown.columns, *([cell.text for cell in row] for row in shown.rows)]))
        parts += not_shown(len(comparison.results), "schedules are")
        note = (
            "Mean ± half width of the 95 % interval over seeds; late is over the last tenth of the epochs; ranked by "
            f"late validation accuracy, never by test. {words.target_note(comparison)} {words.terms_text(comparison)}"
        )
        parts.append(textwrap.fill(note, _WIDTH))
    parts += [_budget_lines(comparison)] if comparison.budget else []
    sentences = [words.headline(comparison), *words.verdicts(comparison), *words.cautions(comparison)]
    parts.append("\n".join(_item(sentence) for sentence in sentences))
    apart = [group for group in comparison.groups[1:] if group not in comparison.other_lengths]
    if apart:
        parts.append("Kept apart:\n" + _some([_apart_line(group) for group in apart]))
    if comparison.left_out:
        parts.append("Left out:\n" + _some(left_out_lines(comparison, _TERMINAL_LINES)))
    if comparison.problems:
        parts.append("Not sound in the files:\n" + _some(list(comparison.problems)))
    return printable("\n\n".join(parts))


def _budget_lines(comparison: Comparison) -> str:
    lines = [["By total epochs", "Epochs", "Val acc. %", "Val loss"]]
    for point in comparison.budget:
        accuracy, loss = words.written(point.final_val_accuracy, ACCURACY), words.written(point.final_val_loss, LOSS)
        lines.append([point.label, str(point.epochs), accuracy, loss])
    return _aligned(lines)


def _apart_line(group: Group) -> str:
    keys = words.listed(list(group.differs), 5)
    return f"{plural(group.size, 'run that differs', 'runs that differ')} in {keys}"


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
