"""Which run folders are found, and what is made of files that are not sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.processes import run_script
from support.run_folders import compared, write_pairs, write_run
from support.small_runs import ROOT

from harness.compare.load import load_runs
from harness.compare.metrics import FINAL_ACCURACY, FINAL_LOSS
from harness.errors import UserError
from harness.report.exports import to_json


def test_what_did_not_complete_is_left_out_with_its_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    killed = write_run(tmp_path / "killed", seed=1)
    (killed / "summary.json").unlink()
    log = (killed / "metrics.jsonl").read_text()
    (killed / "metrics.jsonl").write_text(log[: int(len(log) * 0.55)])
    failed = tmp_path / "failed"
    failed.mkdir()
    error = {"status": "failed", "error": "out of\nmemory", "scheduler": "step", "seed": None}
    (failed / "summary.json").write_text(json.dumps(error))
    stopped = write_run(tmp_path / "stopped", seed=2)
    (stopped / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    broken = write_run(tmp_path / "broken", seed=3)
    (broken / "summary.json").write_text("{")
    bare = write_run(tmp_path / "bare", seed=4)
    (bare / "run.json").unlink()
    short = write_run(tmp_path / "short", seed=5)
    (short / "metrics.jsonl").write_text("\n".join((short / "metrics.jsonl").read_text().split("\n")[:-2]))
    found = compared(tmp_path)
    assert found.left_out == {
        "killed": "unfinished after 5 of 10 epochs",
        "failed": "out of memory",
        "stopped": "interrupted after 10 of 10 epochs",
        "broken": "summary.json is damaged",
        "bare": "no sound run.json, so its settings are unknown",
        "short": "metrics.jsonl lacks the last epoch's validation accuracy",
    }
    assert found.results[0].variant.seeds == (0,)


def test_a_damaged_line_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", val_accuracy=[0.5, 0.9, 0.6], epochs=3)
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")
    lines[1] = b"\xff\x00 not json"
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines))
    runs = load_runs([tmp_path])
    assert [epoch.epoch for epoch in runs.runs[0].log] == [0, 2]
    assert runs.problems == ("run: metrics.jsonl is damaged in line 2; the other lines are used",)
    assert (runs.runs[0].best_val_accuracy, runs.runs[0].best_epoch) == (0.9, 1)  # from summary.json


def test_a_number_beyond_all_floats_counts_as_absent(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", epochs=1)
    line = json.loads((folder / "metrics.jsonl").read_text())
    (folder / "metrics.jsonl").write_text(json.dumps({**line, "seconds": 10**400}))
    assert load_runs([tmp_path]).runs[0].log[0].seconds is None


def test_a_loss_that_is_not_finite_leaves_the_accuracy(tmp_path: Path) -> None:
    write_run(tmp_path / "a", val_loss=[float("nan")], val_accuracy=[0.1], epochs=1)
    found = compared(tmp_path)
    assert found.results[0].of(FINAL_ACCURACY).n == 1
    assert found.results[0].of(FINAL_LOSS).n == 0
    assert "no finite validation loss" in found.problems[0]


def test_summary_and_log_that_disagree_are_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", val_accuracy=[0.5], epochs=1)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "final_val_accuracy": 0.6}))
    found = compared(tmp_path)
    assert found.results[0].of(FINAL_ACCURACY).mean == 0.5
    assert "0.600000 in summary.json" in found.problems[0]


@settings(max_examples=40)
@given(
    file=st.sampled_from(["run.json", "summary.json", "metrics.jsonl"]),
    start=st.integers(0, 900),
    junk=st.binary(max_size=12),
    length=st.integers(0, 400),
)
def test_no_damage_stops_the_comparison(
    tmp_path_factory: pytest.TempPathFactory, file: str, start: int, junk: bytes, length: int
) -> None:
    top = tmp_path_factory.mktemp("damage")
    write_pairs(top, [0.5, 0.6], [0.7, 0.9])
    data = (top / "step0" / file).read_bytes()
    (top / "step0" / file).write_bytes(data[:start] + junk + data[start + length :])
    document = to_json(compared(top))
    json.dumps(document, allow_nan=False)
    assert document["main"]["schedules"]


@pytest.mark.parametrize(
    "value", [None, [], "text", {"scheduler": 3, "seed": "0", "epochs": 2.5, "identity": [1]}, 10**400]
)
def test_json_of_the_wrong_shape_is_left_out(tmp_path: Path, value: object) -> None:
    write_run(tmp_path / "good")
    folder = write_run(tmp_path / "bad", seed=1)
    (folder / "run.json").write_text(json.dumps(value))
    assert set(compared(tmp_path).left_out) == {"bad"}


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a b" / "deep [1,2]" / "run é")
    write_run(tmp_path / "c")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "runs.csv").write_text("run\n")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    runs = load_runs([tmp_path, tmp_path / "c"])
    assert [run.name for run in runs.runs] == ["a b/deep [1,2]/run é", "c"]


def test_linked_runs_keep_the_names_of_their_links(tmp_path: Path) -> None:
    (tmp_path / "picked").mkdir()
    for day in ("mon", "tue"):
        write_run(tmp_path / day / "0", seed=len(day + "x" * (day == "mon")))
        (tmp_path / "picked" / day).symlink_to(tmp_path / day / "0")
    assert [run.name for run in load_runs([tmp_path / "picked"]).runs] == ["mon", "tue"]


def test_a_single_run_folder_can_be_given(tmp_path: Path) -> None:
    write_run(tmp_path / "only")
    assert [run.name for run in load_runs([tmp_path / "only"]).runs] == ["only"]


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no runs in .*empty: .*run\.json"):
        load_runs([tmp_path / "empty"])
    with pytest.raises(UserError, match="no such folder"):
        load_runs([tmp_path / "nowhere"])


def test_a_job_that_left_nothing_is_mentioned(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    (tmp_path / "lost" / ".hydra").mkdir(parents=True)
    (tmp_path / "lost" / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    assert load_runs([tmp_path]).problems == ("lost: a job started here but left no run.json, so it is not listed",)


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_script(ROOT / "scripts" / "verify.py", str(folder), folder=folder)


def test_any_damaged_byte_of_what_a_report_reads_takes_the_run_out_of_it_by_name(tmp_path: Path, small_run) -> None:
    small_run(tmp_path / "run")
    assert load_runs([tmp_path]).runs[0].counts
    assert verify(tmp_path).stdout == "sound      run\n"
    for name in ("request.json", "run.json", "metrics.jsonl", "summary.json", "model.pt"):
        path, content = tmp_path / "run" / name, (tmp_path / "run" / name).read_bytes()
        # A digit is the worst place: what is read is sound by itself.
        place = next(i for i in range(len(content) // 2, len(content)) if content[i : i + 1].isdigit())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        loaded = load_runs([tmp_path])
        assert loaded.runs[0].counts == (name == "model.pt")
        assert name == "model.pt" or name in loaded.runs[0].reason
        checked = verify(tmp_path)
        assert checked.returncode == 1
        assert checked.stdout.startswith(f"damaged    run: {name}")
        path.write_bytes(content)


def test_importing_the_comparison_is_light() -> None:
    code = "import sys, harness.compare; print(*{'torch', 'scipy', 'matplotlib', 'hydra'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
