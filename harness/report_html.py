"""report.html: the blocks of a report as one page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from harness.blocks import Block, Bullets, Cell, Heading, Paragraph, Picture, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --page: #fff; --line: #d0d7de; --band:
#f6f8fa } @media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --quiet: #9aa4b0; --page: #14171b; --line: #363c44; --band: #1d2127 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem; max-width: 84rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .5rem } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p, li { max-width: 60rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line)
} th:first-child, td:first-child, td.text, th.text { text-align: left }
td.text { white-space: normal; min-width: 7rem } td.text:first-child { min-width: 10rem } th { white-space:
normal } thead th { background: var(--band); vertical-align: bottom }
th button { all: unset; cursor: pointer } th button:focus-visible { outline: 2px solid currentColor }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
tbody tr:hover { background: var(--band) }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto; color: var(--ink) }
figcaption { color: var(--quiet); font-size: .9rem; max-width: 60rem }
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
    body = "\n".join(_block(block, drawings) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n<script>{_SORT}</script>\n</body>\n</html>\n"
    )


def _block(block: Block, drawings: Mapping[str, str]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(columns, rows):
            return _table(columns, rows)
        case Picture(name, caption):
            drawing = _inline(drawings[name], caption)
            return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    text = [all(row[index].value is None for row in rows) for index in range(len(columns))]
    kinds = [' class="text"' if is_text else "" for is_text in text]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(name.strip())}</button></th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(cell: Cell, kind: str) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{kind}{value}>{escape(cell.text)}</td>"


def _inline(svg: str, caption: str) -> str:
    """The drawing without its XML prologue and metadata, named for screen readers."""
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
