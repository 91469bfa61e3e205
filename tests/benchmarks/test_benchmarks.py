"""Benchmarks: the arithmetic of rounds, the check for equal work, and one small comparison from end to end."""

import json
import os
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from support.small_runs import ROOT, SMALL

from harness.app.compose import compose_config
from harness.benchmarks import features, gpu, stages, train
from harness.benchmarks.rates import floor
from harness.benchmarks.study import MeasurementError, Row, Spread, Study, ratios, table, turns
from harness.benchmarks.train import wrong_work
from harness.errors import UserError
from harness.runs.tracking import Tracker

HONEST: Row = {"seconds": 1.0, "loss": 1.0, "images": 1000, "steps": 10}


def check(**others: Row) -> list[str]:
    rounds = {"ours": [HONEST], "theirs": [HONEST | {"loss": 1.06}]} | {k: [v] for k, v in others.items()}
    return wrong_work(rounds, images=1000, steps=10)


def test_ratios_pair_the_rounds_and_leave_out_those_that_one_did_not_finish() -> None:
    # The machine was twice as slow in the second round: the ratio of medians would be 2.5, that of rounds is 2.
    assert ratios([400.0, 200.0, 300.0], [200.0, 100.0, 100.0]) == Spread(median=2.0, min=2.0, max=3.0)
    assert ratios([400.0, None, 300.0], [200.0, 100.0, None]) == Spread(2.0, 2.0, 2.0)
    assert ratios([None], [100.0]) is None


def test_every_contestant_comes_first_in_turn() -> None:
    assert [turns(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]


def test_a_study_goes_on_without_who_failed_and_says_so_at_the_end(tmp_path: Path) -> None:
    asked = []

    class HalfBroken(Study):
        def measure(self, name: str) -> Row:
            asked.append(name)
            if name == "broken":
                raise MeasurementError("exit status 1: first line\nlast line")
            return HONEST

        def said(self, row: Row) -> str:
            return str(row)

        def table(self) -> Table:
            return table("", [], [], [])

    options = Namespace(rounds=2, output=tmp_path / "result.json", overrides=["seed=1"], resume=False)
    study = HalfBroken(options, [["broken", "sound"]], {})
    with pytest.raises(UserError, match="broken failed: last line"):
        study.run()
    assert asked == ["broken", "sound", "sound"]
    found = json.loads((tmp_path / "result.json").read_text())
    assert [round and round["seconds"] for round in found["rounds"]["broken"]] == [None, None]
    assert [round and round["seconds"] for round in found["rounds"]["sound"]] == [1.0, 1.0]
    assert (found["overrides"], list(found["failed"])) == (["seed=1"], ["broken"])
    assert study.ratio("sound", "broken", "seconds") is None


def test_runs_of_two_sweeps_are_paired_by_number_whatever_else_their_folders_names_tell(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        for sweep, more in (("alone", "resume=never"), ("shared", "stages.dir=x")):
            folder = tmp_path / sweep / f"{number}_{more}"
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text(json.dumps({"weights_sha256": str(number)}))
    alone, shared = (stages._summaries(tmp_path / sweep) for sweep in ("alone", "shared"))
    assert [run["weights_sha256"] for run in alone] == ["0", "2", "10"]
    assert alone == shared


def test_nobody_wins_by_doing_less() -> None:
    assert check() == []
    assert check(third=HONEST | {"loss": 1.12}) == []
    assert check(cheat=HONEST | {"steps": 9, "images": 900}) == [
        "cheat trained 900 images in 9 steps; must be 1,000 in 10"
    ]
    (worse,) = check(third=HONEST, cheat=HONEST | {"loss": 1.5})
    assert worse.startswith("cheat has the loss 1.500; must be 1.030")
    (broken,) = check(third=HONEST, cheat=HONEST | {"loss": float("nan")})
    assert broken.startswith("cheat has the loss nan")


def test_the_floor_is_rate_over_cost() -> None:
    found = floor(flops=2e9, moved=1e6, matrix=1e12, copy=1e9)
    assert (found["images_per_second_by_flops"], found["images_per_second_by_bytes"]) == (500, 1000)


@pytest.mark.slow
def test_a_comparison_leaves_a_complete_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(command: str, arguments: list[str]) -> dict[str, Any]:
        """In this process, which is faster than one each."""
        capsys.readouterr()
        train.main(arguments)
        result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result

    monkeypatch.setattr(train, "measured", here)
    overrides = ["data=digits", "data.train_size=70", "batch_size=32", "model.channels=[4]", "device=cpu", "threads=1"]
    output = tmp_path / "result.json"
    train.main([*overrides, "--rounds", "1", "--only", "this harness,DataLoader loop (0", "--output", str(output)])
    found = json.loads(output.read_text())
    names = ["this harness", "DataLoader loop (0 workers)"]
    assert list(found["rounds"]) == names
    for name in names:
        (result,) = found["rounds"][name]
        # 70 images are two whole batches; the six left over are nobody's.
        assert (result["images"], result["steps"], result["precision"]) == (64, 2, "fp32")
        assert result["images_per_second"] * result["seconds"] == pytest.approx(64)
    speeds = [found["rounds"][name][0]["images_per_second"] for name in names]
    assert found["harness_ratio"][names[1]]["median"] == pytest.approx(speeds[0] / speeds[1])
    assert found["config"]["batch_size"] == 32
    assert (found["device"], found["threads"], found["failed"], found["wrong"]) == ("cpu", 1, {}, [])
    assert found["floor"]["flops_per_image"] > 0
    used = speeds[0] / found["floor"]["images_per_second_by_flops"]
    assert found["floor"]["harness_flops_utilisation"] == pytest.approx(used)
    assert {"date", "cpu", "cores", "versions"} <= set(found)
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_feature_is_measured_by_a_real_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Put back afterwards: the change itself is for a process of its own.
    monkeypatch.setattr(Tracker, "epoch", usual := Tracker.epoch)
    config, scheduler = compose_config(SMALL)
    timing = features._measure(config, scheduler, features.CHANGES["TensorBoard and metrics.jsonl"])
    assert (timing["device"], timing["precision"], timing["threads"]) == ("cpu", "fp32", 1)
    assert timing["seconds"] > 0
    assert Tracker.epoch is not usual


def test_the_cost_of_a_feature_is_with_it_over_without_it() -> None:
    def rounds(*seconds: float) -> list[Row | None]:
        return [{"seconds": value} for value in seconds]

    found = {features.BASE: rounds(1.0, 2.0), "progress bar": rounds(1.5, 3.0), "determinism": rounds(0.5, 1.0)}
    # The bar is off by default, determinism on.
    assert features._cost(found, "progress bar") == (Spread(1.5, 1.5, 1.5), Spread(750.0, 500.0, 1000.0))
    assert features._cost(found, "determinism") == (Spread(2.0, 2.0, 2.0), Spread(750.0, 500.0, 1000.0))


def test_an_unknown_contestant_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="--only nobody: must be how names begin, of this harness; bare step"):
        train.main(["--only", "nobody"])


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--fast"], {}, "--fast: must be --dry"),
        (["--steps", "rates,nothing"], {}, "--steps nothing: must be of environment rates"),
        ([], {"SECONDS_IN_ALL": "soon"}, "SECONDS_IN_ALL=soon: must be a whole number"),
        ([], {"WHEELS": "/nonexistent"}, "WHEELS=/nonexistent: must be a folder with wheels"),
    ],
)
def test_gpu_bench_refuses_wrong_calls(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    command = ["bash", str(ROOT / "scripts" / "gpu_bench.sh"), *arguments, str(tmp_path / "results")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_gpu_bench_tells_a_step_that_failed_from_one_without_tests(tmp_path: Path) -> None:
    assert gpu._commands(True, None, tmp_path, tmp_path).keys() == gpu.LIMITS.keys()
    with (tmp_path / "log.txt").open("w") as log:
        results = [gpu._result("tests", ["sh", "-c", f"echo said; exit {status}"], 60, log) for status in (0, 5, 3)]
        late = gpu._result("rates", ["true"], 4, log)
    assert results == ["ok", "skipped: no test has cuda in its name", "FAILED: exit status 3"]
    assert late == "FAILED: out of time"
    assert (tmp_path / "log.txt").read_text() == 3 * "said\n"
