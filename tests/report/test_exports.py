"""comparison.json has the keys that its documentation names, and a new metric appears wherever metrics do."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from support.run_folders import compared, raw, write_pairs, write_run, write_sweep

import harness
from harness.compare import comparison, results, verdicts
from harness.compare.metrics import ACCURACY, Compared
from harness.report import content, exports, latex, words
from harness.report.write import write_report

ESTIMATE = {"n", "mean", "low", "high", "sd"}
FREE = ("identity", "arguments", "settings", "left_out", "differs")  # their keys are settings or names
Keys = dict[str, Any]


def documented() -> Keys:
    """The keys in the text of harness.report.exports, nested as there."""
    tree: Keys = {}
    above = [(0, tree)]
    for line in str(exports.__doc__).splitlines():
        if not line.startswith("    "):
            continue
        match = re.fullmatch(r"( +)(\*|\w+(?:, \w+)*)(?:: .+)?", line)
        assert match, f"neither keys nor keys: text: {line}"
        while above[-1][0] >= len(match[1]):
            above.pop()
        below: Keys = {}
        above[-1][1].update(dict.fromkeys(match[2].split(", "), below))
        above.append((len(match[1]), below))
    return tree


def nested_keys(value: object) -> Keys:
    """The keys of a JSON value, of all items of a list together; an estimate counts as a plain value."""
    if isinstance(value, list):
        return {name: below for item in value for name, below in nested_keys(item).items()}
    if not isinstance(value, dict) or value.keys() == ESTIMATE:
        return {}
    return {name: {} if name in FREE else nested_keys(below) for name, below in value.items()}


def test_every_key_of_comparison_json_is_documented_and_no_other_is(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    for epochs in (12, 14):
        write_run(tmp_path / f"constant of {epochs}", epochs=epochs)
    write_run(tmp_path / "stranger", identity={"model.name": "resnet"})
    document = nested_keys(json.loads(json.dumps(exports.to_json(compared(tmp_path), exports.made_now()))))
    document["curves"] = {"*": document["curves"]["step"]}
    assert document["apart"].pop("schedules") == document["main"]["schedules"]
    document["apart"]["schedules"] = {}
    assert document == documented()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\N{REPLACEMENT CHARACTER}=1"), ('"=1', "'\"=1"), (" =1", "' =1"), ("\uff1d1", "'\uff1d1"),
        ("-1.5", "-1.5"), ("-1e-05", "-1e-05"), ("+3", "+3"), ("[30,80]", "[30,80]"), ("a=1", "a=1"),
    ],
)  # fmt: skip
def test_no_cell_of_runs_csv_is_a_formula_and_numbers_are_numbers(tmp_path: Path, text: str, cell: str) -> None:
    write_run(tmp_path / "run", identity={"x": text, "y": -1.5, text: "a key"})
    table = list(csv.reader(exports.runs_csv(compared(tmp_path)).splitlines()))
    row = dict(zip(*table, strict=True))
    assert (row["x"], row["y"], row[cell]) == (cell, "-1.5", "a key")


def test_epochs_csv_has_every_number_of_every_epoch_and_no_formula(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=1)
    write_run(tmp_path / "-2+3", identity={"model.name": "resnet"}, epochs=3)
    dead = write_run(tmp_path / "dead", "=1+1", seed=9, epochs=2)
    (dead / "summary.json").unlink()
    line = {**raw(dead)[1], "lr": {"default": 0.25, "=head": -0.5}, "val_loss": None}
    (dead / "metrics.jsonl").write_text(f"{json.dumps(raw(dead)[0])}\n{json.dumps(line)}\n")
    write_report([tmp_path], tmp_path / "report")
    with (tmp_path / "report" / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 10 + 3 + 2
    epoch = {row["epoch"]: row for row in rows if row["run"] == "multi_0"}["7"]
    expected = {**raw(tmp_path / "multi_0")[7], "run": "multi_0", "schedule": "multistep", "group": "main", "seed": 0}
    expected["lr/default"] = expected.pop("lr")["default"]
    assert epoch == {**{name: str(value) for name, value in expected.items()}, "lr/=head": ""}
    places = {row["run"]: (row["schedule"], row["group"]) for row in rows}
    assert places["'-2+3"] == ("constant", "apart 1")
    assert places["dead"] == ("'=1+1", "")
    last = [row for row in rows if row["run"] == "dead"][-1]
    assert (last["lr/default"], last["lr/=head"], last["val_loss"]) == ("0.25", "-0.5", "")
    assert {row["reused"] for row in rows} == {"True", "False"}


def test_comparison_json_says_what_made_it_and_keeps_its_time_while_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path, seeds=2)
    path = tmp_path / "report" / "comparison.json"

    def made(*command: str, aged: str = "2001-02-03T04:05:06+00:00") -> dict[str, str]:
        """As a report made by this command says, which then is given an older time."""
        monkeypatch.setattr("sys.orig_argv", ["/somewhere/python", *command])
        write_report([tmp_path], tmp_path / "report")
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "made": {**document["made"], "time": aged}}))
        return dict(document["made"])

    start = datetime.now(UTC).replace(microsecond=0)
    first = made("scripts/compare.py", "my sweep")
    assert start <= datetime.fromisoformat(first.pop("time")) <= datetime.now(UTC)
    expected = {"tool": "lr-schedule-lab", "version": harness.__version__}
    assert first == {**expected, "command": "python scripts/compare.py 'my sweep'"}
    assert made("scripts/compare.py", "my sweep")["time"] == "2001-02-03T04:05:06+00:00"
    assert datetime.fromisoformat(made("scripts/compare.py", "elsewhere")["time"]) >= start
    write_run(tmp_path / "more", seed=7)
    assert datetime.fromisoformat(made("scripts/compare.py", "elsewhere")["time"]) >= start


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each tabular, as cells; only if LaTeX finds all braces in pairs and no more cells than columns."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    bare = re.sub(r"\\[{}]", "", text)
    depths = list(accumulate({"{": 1, "}": -1}.get(sign, 0) for sign in bare))
    assert min(depths) == depths[-1] == 0
    found = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line.strip() for line in body.strip().splitlines()]
        assert [lines[index] for index in (0, 2, -1)] == [r"\toprule", r"\midrule", r"\bottomrule"]
        rows = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in lines if line.endswith(r" \\")]
        assert len(rows) == len(lines) - 3
        assert {len(row) for row in rows} == {len(columns)}
        found.append(rows)
    return found


def test_results_tex_has_the_results_with_those_that_may_be_best_in_bold_and_the_differences(tmp_path: Path) -> None:
    values = [0.70, 0.71, 0.72, 0.73, 0.74], [0.80, 0.812, 0.819, 0.832, 0.837]
    write_pairs(tmp_path, *values)
    write_report([tmp_path], tmp_path / "report")
    text = (tmp_path / "report" / "results.tex").read_text()
    assert text.startswith("% lr-schedule-lab 0.1.0: python ")
    assert "Bold: no other schedule is claimed to be better" in text
    (head, step, constant), (_, difference, _) = tables(text)
    assert head[:3] == ["Schedule", "Seeds", r"Late val acc. \%"]
    assert step[:4] == ["step", "5", r"\textbf{82.00 $\pm$ 1.86}", r"\textbf{1.0000 $\pm$ 0.0000}"]
    assert constant[:4] == ["constant (baseline)", "5", r"72.00 $\pm$ 1.96", r"\textbf{1.0000 $\pm$ 0.0000}"]
    assert difference[:5] == ["step", "constant", "late accuracy", "5", "+10.00 [+9.65, +10.35]"]
    assert difference[5:] == [r"\textless{} 0.0001", "better"]


def test_without_a_test_nothing_is_bold_in_results_tex(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.7], [0.8])
    text = latex.results_tex(compared(tmp_path), exports.made_now())
    assert "textbf" not in text
    assert "Nothing was tested" in text


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a_b 50% &c #1 {x}", r"a\_b 50\% \&c \#1 \{x\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("$<|>", r"\$\textless{}\textbar{}\textgreater{}"), ("[3]", "{}[3]"), ("*", "{}*"), ("é-ß", "é-ß"),
        ("a\x1b%", r"a?\%"),
    ],
)  # fmt: skip
def test_a_name_is_text_in_results_tex(tmp_path: Path, name: str, cell: str) -> None:
    for number, schedule in enumerate(("constant", name)):
        write_run(tmp_path / str(number), schedule, val_accuracy=[0.5 + number / 10], epochs=1)
    made = exports.Made("tool", "1", "python a\nb \\end{document}", "")
    text = latex.results_tex(compared(tmp_path), made)
    assert text.startswith("% tool 1: python a\N{REPLACEMENT CHARACTER}b \\end{document}\n% ")
    assert tables(text)[0][1][0] == cell


def test_a_new_metric_is_in_the_table_the_sentences_and_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = Compared(
        "worst_val_accuracy",
        "Worst val acc. %",
        ACCURACY,
        lambda run, _: min((epoch.val_accuracy or 0.0 for epoch in run.log), default=None),
        name="worst validation accuracy",
        short="worst accuracy",
        measured="percentage points of the worst accuracy",
        higher_is_better=True,
    )
    for module in (results, comparison, verdicts, content, words, exports, latex):
        for name in {"METRICS", "COMPARED"} & vars(module).keys():
            monkeypatch.setattr(module, name, (*getattr(module, name), worst))
    write_sweep(tmp_path, seeds=2)
    report = write_report([tmp_path], tmp_path / "report")
    lowest = [min(line["val_accuracy"] for line in raw(tmp_path / f"step_{seed}")) for seed in (0, 1)]

    document = json.loads((tmp_path / "report" / "comparison.json").read_text())
    step = next(entry for entry in document["main"]["schedules"] if entry["label"] == "step")
    assert step["worst_val_accuracy"]["mean"] == pytest.approx(sum(lowest) / 2)
    tested = [(entry["label"], entry["metric"]) for entry in document["differences"]]
    assert document["claims"]["tests"] == len(tested) == 9
    assert ("step", "worst_val_accuracy") in tested
    with (tmp_path / "report" / "runs.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert float(rows["step_1"]["worst_val_accuracy"]) == lowest[1]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| Images/s | Worst val acc. % |" in text
    assert text.count("| worst accuracy | 2 |") == 3
    assert "in worst validation accuracy" in report.text
