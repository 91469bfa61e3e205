"""The report as its readers meet it: sentences, tables, page, files and the command that makes them."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from support.processes import run_script
from support.run_folders import compared, write_pairs, write_run, write_sweep
from support.small_runs import ROOT

from harness.compare.grid import find_grid
from harness.compare.metrics import ACCURACY, LOSS
from harness.compare.stats import Estimate
from harness.errors import UserError
from harness.files import write_sealed
from harness.report.blocks import Paragraph, Table
from harness.report.content import decay_blocks
from harness.report.words import headline, p_text, verdicts, written
from harness.report.write import Report, write_report

PICTURES = {"lr.png", "curves.png", "differences.png"}
FILES = {"report.md", "report.html", "comparison.json", "runs.csv", "epochs.csv", "results.tex", "figures"} | PICTURES
LOOKS = "looks.json"
HOSTILE = 'a "b" <script>alert(1)</script> & | $x_ *'


@pytest.fixture(autouse=True)
def seldom_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, which take most of a report's time, are drawn in tests marked `draws`."""
    if not request.node.get_closest_marker("draws"):
        monkeypatch.setattr("harness.report.plots.PICTURES", {})


def reported(top: Path, **options: Any) -> Report:
    return write_report([top], top / "report", **options)


def names(report: Report) -> set[str]:
    return {path.name for path in report.files}


# Sentences


def test_a_clear_win_reads_as_one(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.70, 0.71, 0.72, 0.73, 0.74], [0.80, 0.812, 0.819, 0.832, 0.837])
    found = compared(tmp_path)
    assert verdicts(found)[0] == (
        "step beats constant in late validation accuracy by 10.00 points "
        "(simultaneous interval 9.65 to 10.35, corrected p < 0.0001, in 5 of 5 seeds)."
    )
    assert headline(found) == (
        "The winner is step in late validation accuracy. In late validation accuracy step beats constant. "
        "In late validation loss every schedule may be the best."
    )


def test_a_win_in_loss_is_a_lower_loss(tmp_path: Path) -> None:
    write_pairs(tmp_path, [1.2, 1.3, 1.25, 1.4], [0.91, 0.99, 0.96, 1.1], losses=True)
    sentence = verdicts(compared(tmp_path))[0]
    assert sentence.startswith("step beats constant in late validation loss by 0.2975 (simultaneous interval 0.27")


def test_a_loss_of_accuracy_is_called_worse_with_a_positive_size(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.80, 0.812, 0.819, 0.832], [0.70, 0.71, 0.72, 0.73])
    sentence = verdicts(compared(tmp_path))[0]
    assert sentence.startswith("step is worse than constant in late validation accuracy by 10.08 points (simult")
    assert "-" not in sentence


def test_chance_is_called_chance_and_the_seeds_needed_are_given_with_their_range(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.70, 0.71, 0.72], [0.72, 0.70, 0.73])
    found = compared(tmp_path)
    sentence = verdicts(found)[0]
    needed = found.differences[0].seeds_needed
    assert needed is not None
    assert "is 0.67 points above constant, but that could be chance (simultaneous interval -" in sentence
    assert f"{needed.observed} seeds in all ({(needed.observed or 0) - 3} more) would be needed" in sentence
    assert f"({needed.fewest} upwards without limit over" in sentence


def test_what_lies_near_the_threshold_is_said_to(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.70, 0.71, 0.72, 0.73, 0.74], [0.715, 0.717, 0.745, 0.740, 0.770])
    found = compared(tmp_path)
    assert 0.02 < (found.differences[0].p_corrected or 0) < 0.125
    assert "close to the threshold of 0.05" in verdicts(found)[0]


def test_a_claim_takes_more_than_half_of_the_seeds(tmp_path: Path) -> None:
    """A significant mean of which few seeds are the cause is no claim about a schedule's runs."""
    gains = [0.02] * 12 + [-0.001] * 10
    write_pairs(tmp_path, [0.7] * 22, [0.7 + gain for gain in gains])
    found = compared(tmp_path)
    assert (found.differences[0].p_corrected or 1.0) < 0.05
    assert found.differences[0].verdict == "undecided"
    assert "but that rests on few of the seeds" in verdicts(found)[0]


def test_diverged_seeds_are_told_and_count(tmp_path: Path) -> None:
    write_pairs(tmp_path, [float("nan"), 0.4, 0.5], [0.30, 0.31, 0.33], losses=True)
    text = " ".join(reported(tmp_path).text.split())
    assert "constant diverged with seed 0 (1 of 3 runs)" in text
    assert "Mean losses and differences in loss are over the other seeds and flatter it" in text
    for place in tmp_path.glob("*/run.json"):
        place.write_text(json.dumps({**json.loads(place.read_text()), "classes": ["a", "b", "c"]}))
    found = compared(tmp_path)
    assert [d.paired.seeds for d in found.differences] == [(0, 1, 2)] * 2
    assert "Its late loss there counts as that of guessing." in " ".join(reported(tmp_path).text.split())


def test_looking_again_at_more_seeds_is_another_look_and_at_the_same_is_not(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.70, 0.71], [0.72, 0.70])
    reported(tmp_path)
    assert not (tmp_path / "report" / LOOKS).exists(), "two seeds are too few for a claim, and looking at them is free"
    write_run(tmp_path / "third", "constant", 2, 1, val_accuracy=[0.72], val_loss=[1.0])
    write_run(tmp_path / "its pair", "step", 2, 1, {"step_size": 4}, val_accuracy=[0.73], val_loss=[1.0])
    assert [reported(tmp_path).comparison.look for _ in range(2)] == [1, 1]
    write_run(tmp_path / "more", "step", 7, 1, {"step_size": 4}, val_accuracy=[0.9], val_loss=[1.0])
    found = reported(tmp_path).comparison
    assert (found.look, round(found.terms.level, 5)) == (2, 0.00456)
    assert write_report([tmp_path], tmp_path / "elsewhere").comparison.look == 2
    (tmp_path / "report" / LOOKS).write_text("[")
    assert reported(tmp_path).comparison.look == 1


def test_of_a_sweep_that_has_not_ended_nothing_is_claimed(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=3)
    write_sealed(tmp_path / "sweep.json", {"arguments": [], "finished": False})
    report = reported(tmp_path)
    assert "has not ended" in report.text
    assert "p =" not in report.text
    assert report.comparison.pairs == ()
    assert not (tmp_path / "report" / LOOKS).exists()
    assert reported(tmp_path, jobs=9).comparison.tests == 6
    assert "p =" in reported(tmp_path, jobs=0).text


@pytest.mark.parametrize(
    ("split", "said"), [(0, "on the same images, for which the"), (None, "about 50% of the variance")]
)
def test_the_choice_of_validation_images_is_weighed_against_the_seeds(
    tmp_path: Path, split: int | None, said: str
) -> None:
    # 100 images move an accuracy of 90 % by 3 points; over these seeds it varies by 3 * sqrt(2).
    write_pairs(tmp_path, [0.5, 0.5], [0.87, 0.93])
    for place in tmp_path.glob("*/run.json"):
        run = json.loads(place.read_text())
        place.write_text(
            json.dumps({**run, "identity": {**run["identity"], "data.split_seed": split}, "images": {"val": 100}})
        )
    text = " ".join(reported(tmp_path).text.split())
    assert "moves an accuracy of 90.00 % by 3.00 points (binomial standard error)" in text
    assert said in text


def test_no_interval_of_an_accuracy_leaves_the_possible(tmp_path: Path) -> None:
    assert written(Estimate(3, 0.99, 0.97, 1.01, 0.01), ACCURACY) == "99.00 [97.00, 100.00]"


def test_equal_results_and_single_seeds_make_no_claim(tmp_path: Path) -> None:
    write_pairs(tmp_path / "equal", [0.7, 0.8], [0.7, 0.8])
    write_pairs(tmp_path / "one", [0.7], [0.8])
    equal, one = verdicts(compared(tmp_path / "equal"))[0], verdicts(compared(tmp_path / "one"))[0]
    assert equal == "step and constant have the same late validation accuracy with each of the 2 seeds."
    assert one == (
        "step is 10.00 points above constant in late validation accuracy with the one seed that both have (0); "
        "no claim is possible from one seed."
    )
    assert "no claim is possible" in reported(tmp_path / "one").text


def test_one_difference_repeated_exactly_gives_no_nan(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.5, 0.6, 0.7], [0.6, 0.7, 0.8])
    report = reported(tmp_path)
    assert "the same difference with every seed" in report.text
    assert all("nan" not in (tmp_path / "report" / name).read_text().lower() for name in ("report.md", "runs.csv"))


def test_schedules_without_a_shared_seed_are_not_paired(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "constant", 0)
    write_run(tmp_path / "b", "step", 1, arguments={"step_size": 4})
    assert "share no seed" in verdicts(compared(tmp_path))[0]


def test_the_limit_of_the_permutation_test_is_told(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    text = " ".join(reported(tmp_path).text.split())
    assert "cannot reach 0.05 with fewer than six seeds (its smallest p is 0.062 with 5 seeds)" in text


@pytest.mark.parametrize(
    ("p", "text"), [(0.00004, "< 0.0001"), (0.00213, "0.0021"), (0.1, "0.10"), (0.999, "1.0"), (None, "-")]
)
def test_p_values_have_two_significant_digits(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_numbers_have_the_digits_that_readers_expect() -> None:
    value = Estimate(5, 0.912345, 0.907, 0.91769, 0.01)
    assert (written(value, ACCURACY), written(value, LOSS)) == ("91.23 ± 0.53", "0.9123 ± 0.0053")
    assert written(Estimate(1, 0.5, None, None, None), ACCURACY) == "50.00"
    assert written(Estimate(0, None, None, None, None), ACCURACY) == "-"


# Files


@pytest.mark.draws
def test_the_report_is_all_its_files(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    report = reported(tmp_path)
    assert names(report) == FILES == {path.name for path in (tmp_path / "report").iterdir()}
    for name in PICTURES:
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")
    figures = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert figures == {f"{Path(name).stem}{end}" for name in PICTURES for end in (".svg", ".pdf")}
    assert "step" in report.text
    assert "±" in report.text


@pytest.mark.draws
def test_the_report_is_the_same_when_made_again(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    reported(tmp_path)
    files = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    first = {path: path.read_bytes() for path in files}
    reported(tmp_path)
    assert {path: path.read_bytes() for path in files} == first


def test_without_runs_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs"):
        reported(tmp_path)
    write_run(tmp_path / "a")
    with pytest.raises(UserError, match="baseline"):
        reported(tmp_path, baseline="nobody")
    assert not (tmp_path / "report").exists()


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        reported(tmp_path)
    assert (tmp_path / "report").read_text() == "mine"


def test_failed_runs_alone_still_make_a_report(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    summary = {"status": "failed", "error": "CUDA out of memory", "scheduler": None, "seed": None}
    (tmp_path / "job" / "summary.json").write_text(json.dumps(summary))
    report = reported(tmp_path)
    assert names(report) == FILES - PICTURES - {"figures"}
    assert "CUDA out of memory" in report.text
    assert "CUDA out of memory" in (tmp_path / "report" / "report.html").read_text()


def test_comparison_json_is_strict_json(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.5, 0.6], [float("nan"), 0.4], losses=True)
    reported(tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    document = json.loads((tmp_path / "report" / "comparison.json").read_text(), parse_constant=refuse)
    assert document["main"]["schedules"]


def test_runs_csv_has_every_run_with_settings_results_and_status(tmp_path: Path) -> None:
    write_run(tmp_path / "good", "multistep", 3, arguments={"milestones": [3, 8]}, val_accuracy=[0.5], epochs=1)
    killed = write_run(tmp_path / "killed", identity={"model.name": "other"})
    (killed / "summary.json").unlink()
    reported(tmp_path)
    with (tmp_path / "report" / "runs.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    good = rows["good"]
    assert (good["status"], good["counted"], good["seed"]) == ("completed", "yes", "3")
    assert (good["final_val_accuracy"], good["scheduler.milestones"], good["model.name"]) == ("0.5", "[3, 8]", "cnn")
    assert rows["killed"]["counted"] == "no"
    assert rows["killed"]["reason"] == "unfinished after 10 of 10 epochs"


def test_what_is_kept_apart_and_left_out_is_named(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    write_run(tmp_path / "stranger", identity={"model.name": "resnet"})
    (write_run(tmp_path / "dead", seed=9) / "summary.json").unlink()
    report = reported(tmp_path)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "model.name: resnet instead of cnn" in text
    assert "runs: stranger" in text
    assert "dead: unfinished after 10 of 10 epochs" in text
    assert "1 run that differs in model.name" in report.text


# Markdown and page


class Page(HTMLParser):
    """Collects what a browser would fetch, the ids, the visible text and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")


@pytest.mark.draws
def test_the_page_needs_no_network_and_draws_every_schedule(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    reported(tmp_path)
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.tags["svg"] == 3
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    referred = {link[1:] for link in page.links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert referred <= set(page.ids)
    for colour in ("#0072b2", "#d55e00", "currentColor"):
        assert f"stroke: {colour}" in text


def test_a_screen_reader_finds_the_text_each_table_and_each_row_by_name(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=2)
    reported(tmp_path)
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.tags["main"] == 1
    captions = re.findall(r"<caption>(.*?)</caption>", text)
    assert captions[:2] == ["Results", "Differences"]
    assert re.findall(r'<div class="scroll" role="region" aria-label="(.*?)" tabindex="0">', text) == captions
    body = re.findall(r"<tr>(<t[hd].*?>)", text.split("<tbody>", 1)[1])
    assert {cell for cell in body if "col" not in cell} == {'<th scope="row">'}


@pytest.mark.draws
def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path / HOSTILE.replace("/", "-"), HOSTILE, 0)
    write_run(tmp_path / "plain", "constant", 0)
    failed = tmp_path / "failed"
    failed.mkdir()
    (failed / "summary.json").write_text(json.dumps({"status": "failed", "error": HOSTILE}))
    reported(tmp_path)
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert page.tags["script"] == 1
    text = (tmp_path / "report" / "report.md").read_text()
    assert "<script" not in text.replace("\\<script", "")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_names_that_would_steer_a_terminal_or_are_no_unicode_are_written_harmlessly(tmp_path: Path) -> None:
    write_run(tmp_path / os.fsdecode(b"bad \xff\x1b[2J"), "line\nbreak\x1b[2J", 0, arguments={"x": "\ud800"})
    write_run(tmp_path / "plain", "constant", 0)
    report = reported(tmp_path)
    assert "\x1b" not in report.text
    assert any(line.startswith("line\N{REPLACEMENT CHARACTER}break") for line in report.text.splitlines())
    with (tmp_path / "report" / "runs.csv").open(newline="") as file:
        found = [row["run"] for row in csv.DictReader(file)]
    assert found == ["bad \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J", "plain"]


def test_a_schedule_with_many_decays_leaves_room_for_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "step", 0, 60, {"step_size": 1, "gamma": 0.5}, val_accuracy=[0.9] * 60)
    write_run(tmp_path / "b", "multistep", 0, 60, {"milestones": [20, 40], "gamma": 0.1}, val_accuracy=[0.8] * 60)
    blocks = decay_blocks(compared(tmp_path))
    table = next(block for block in blocks if isinstance(block, Table))
    shown = [(row[0].text, row[1].text) for row in table.rows]
    assert shown == [("step", str(epoch)) for epoch in range(1, 24)] + [("multistep", "20"), ("multistep", "40")]
    assert Paragraph("36 more decays in comparison.json.") in blocks


def test_a_thousand_runs_keep_a_readable_table(tmp_path: Path) -> None:
    write_run(tmp_path / "base", "constant", 0, 1, val_accuracy=[0.01])
    for index in range(999):
        write_run(tmp_path / f"r{index:04}", "step", 0, 1, {"step_size": index + 1}, val_accuracy=[(index + 1) / 1000])
    report = reported(tmp_path)
    lines = report.text.split("\n")
    assert len(lines) < 60
    rule = next(index for index, line in enumerate(lines) if line.startswith("---"))
    assert lines[rule + 1].startswith("step step_size=999 ")
    assert any(line.startswith("constant (baseline)") for line in lines)
    assert "975 more schedules are in comparison.json; runs.csv has every run." in report.text
    assert len((tmp_path / "report" / "runs.csv").read_text().splitlines()) == 1001
    assert len((tmp_path / "report" / "report.md").read_text().splitlines()) < 250


# Heat map


@pytest.mark.draws
def test_two_swept_settings_make_a_heat_map(tmp_path: Path) -> None:
    value = iter(range(1, 7))
    for milestones in ([3, 8], [5, 8], [10, 12]):
        for gamma in (0.1, 0.5):
            arguments = {"milestones": milestones, "gamma": gamma}
            name = f"{milestones[0]} {gamma}"
            write_run(tmp_path / name, "multistep", 0, 1, arguments, val_accuracy=[next(value) / 10])
    grid = find_grid(compared(tmp_path).results)
    assert grid is not None
    assert (grid.row_name, grid.rows) == ("milestones", ("[3, 8]", "[5, 8]", "[10, 12]"))
    assert (grid.column_name, grid.columns) == ("gamma", ("0.1", "0.5"))
    assert grid.means == ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6))
    assert names(reported(tmp_path)) == FILES | {"heatmap.png"}


def test_two_swept_milestones_make_a_heat_map_with_empty_cells(tmp_path: Path) -> None:
    for index, milestones in enumerate(([10, 20], [10, 5], [9, 20])):
        write_run(tmp_path / str(index), "multistep", 0, 1, {"milestones": milestones}, val_accuracy=[index / 10])
    grid = find_grid(compared(tmp_path).results)
    assert grid is not None
    assert (grid.row_name, grid.column_name) == ("milestones[0]", "milestones[1]")
    assert (grid.rows, grid.columns) == (("9", "10"), ("5", "20"))
    assert grid.means == ((None, 0.2), (0.1, 0.0))


def test_settings_that_always_change_together_make_no_heat_map(tmp_path: Path) -> None:
    for index in range(3):
        write_run(tmp_path / str(index), "multistep", 0, 1, {"milestones": [index + 1], "gamma": 0.1 * (index + 1)})
    assert find_grid(compared(tmp_path).results) is None


@pytest.mark.draws
def test_a_heat_map_of_an_earlier_report_does_not_stay(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=1)
    (tmp_path / "report" / "figures").mkdir(parents=True)
    old = [tmp_path / "report" / name for name in ("heatmap.png", "figures/heatmap.svg", "figures/heatmap.pdf")]
    for path in old:
        path.write_bytes(b"old")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    reported(tmp_path)
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES | {"notes.txt"}
    assert not any(path.exists() for path in old)


# Command


def command(folder: Path, *arguments: str) -> CompletedProcess[str]:
    return run_script(ROOT / "scripts" / "compare.py", *arguments, folder=folder)


def test_the_command_reports_beside_the_runs(tmp_path: Path) -> None:
    write_sweep(tmp_path / "my sweep", seeds=2)
    done = command(tmp_path, "my sweep", "--baseline", "step", "--target-accuracy", "0.6")
    assert (done.returncode, done.stderr) == (0, "")
    assert "step (baseline)" in done.stdout
    assert "Target accuracy 60 % (given)" in " ".join(done.stdout.split())
    assert (tmp_path / "my sweep" / "report" / "report.html").is_file()


def test_the_command_explains_what_the_user_can_mend(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command(tmp_path, "empty")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no runs in empty: a run folder holds run.json")
