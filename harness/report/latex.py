"""The results and the differences as tables for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.compare.comparison import Comparison
from harness.compare.metrics import METRICS, TERMINAL, Metric
from harness.compare.results import Result
from harness.compare.verdicts import Difference
from harness.errors import printable
from harness.report import words
from harness.report.blocks import ROWS
from harness.report.content import not_shown, shown_differences
from harness.report.exports import Made

_SIGNS = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "_%&#{}$"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "\N{REPLACEMENT CHARACTER}": "?",  # which LaTeX's own fonts lack
    }
)


def results_tex(comparison: Comparison, made: Made) -> str:
    """Two tables with captions, results and differences, as far as there are any: results.tex.

    The columns are those of the table on the terminal; the text takes the package booktabs and no other.
    """
    parts = [
        f"% {printable(f'{made.tool} {made.version}: {made.command}', kept='')}",
        r"% \usepackage{booktabs} in the preamble, \input{results.tex} where the tables are to be.",
    ]
    if comparison.results:
        parts += [f"% {text}" for text in not_shown(len(comparison.results), "schedules are")]
        parts.append(_results(comparison))
    if differences := shown_differences(comparison):
        left = len(comparison.pairs) - len(differences)
        parts += [f"% {left:,} more differences are in comparison.json."] if left else []
        parts.append(_differences(comparison, differences))
    return "\n".join(parts) + "\n"


def _results(comparison: Comparison) -> str:
    metrics = [metric for metric in METRICS if TERMINAL in metric.tables]
    rows = []
    for result in comparison.leading(ROWS):
        name = f"{result.label} (baseline)" if result.label == comparison.baseline else result.label
        cells = (_result(result, metric, comparison) for metric in metrics)
        rows.append([_text(name), str(len(result.variant.runs)), *cells])
    marked = (
        "Bold: no other schedule is claimed to be better; the best one is among them with 95 % probability."
        if comparison.tests
        else "Nothing was tested, so that no schedule is marked."
    )
    caption = (
        "Schedules by late validation accuracy: mean ± half width of the 95 % interval (Student's t) over the seeds. "
        f"Late is the mean over the last tenth of the epochs, at least two. Losses are in nats. {marked}"
    )
    columns = ["Schedule", "Seeds", *(metric.title for metric in metrics)]
    return _table(columns, rows, "l" + "r" * (len(columns) - 1), caption, "tab:schedules")


def _result(result: Result, metric: Metric, comparison: Comparison) -> str:
    text = _number(words.metric_text(result, metric))
    may_be_best = comparison.tests and result.label in comparison.contenders.get(metric.key, ())
    return rf"\textbf{{{text}}}" if may_be_best else text


def _differences(comparison: Comparison, differences: Sequence[Difference]) -> str:
    rows = [
        [
            *map(_text, (each.label, each.other, each.metric.short)),
            str(len(each.paired.seeds)),
            *map(_number, (words.simultaneous(each), words.p_text(each.p_corrected))),
            _text(each.verdict),
        ]
        for each in differences
    ]
    measured = words.listed(list(dict.fromkeys(each.metric.measured for each in differences)))
    caption = (
        f"The first schedule less the second, paired by seed, in {measured}; the intervals hold for all pairs at once. "
        f"The verdict is on the first. {words.terms_text(comparison)}"
    )
    columns = ["Schedule", "less", "Metric", "Seeds", "Difference [interval]", "p", "Verdict"]
    return _table(columns, rows, "lllrrrl", caption, "tab:differences")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], places: str, caption: str, label: str) -> str:
    """A table that floats; `rows` and `places` are LaTeX, the rest is text."""
    head = " & ".join(map(_text, columns))
    lines = [
        r"\begin{table}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \caption{{{_text(caption.strip())}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{@{{}}{places}@{{}}}}",
        r"    \toprule",
        rf"    {head} \\",
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Text that LaTeX sets as it is. A bracket or a star that follows a line's end would be taken for its argument."""
    return re.sub(r"^(?=[\[*])", "{}", printable(text, kept="").translate(_SIGNS))


def _number(text: str) -> str:
    """A number as `harness.report.words` writes it, with a minus sign in place of the hyphen."""
    return "--" if text == words.NOTHING else _text(text).replace("-", "$-$")
