"""Benchmarks: the arithmetic of rounds, the check for equal work, and one small comparison from end to end."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from support.small_runs import ROOT, SMALL

from harness.app.compose import compose_config
from harness.benchmarks import accuracy, features, gpu, probe, stages, train, work
from harness.benchmarks.rates import floor
from harness.benchmarks.study import MeasurementError, Row, Spread, Study, ratios, table, turns
from harness.benchmarks.train import unlike, wrong_work
from harness.data import sources
from harness.data.dataset import load_dataset
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


class HalfBroken(Study):
    """Of which `broken` fails as long as it is told to."""

    asked: list[str]
    fails = True

    def measure(self, name: str) -> Row:
        self.asked.append(name)
        if name == "broken" and self.fails:
            raise MeasurementError("exit status 1: first line\nlast line")
        return HONEST

    def said(self, row: Row) -> str:
        return str(row)

    def table(self) -> Table:
        return table("", ["finished rounds"], [], [[str(len(rounds))] for rounds in self.results().values()])


def half_broken(file: Path, resume: bool = False, *overrides: str) -> HalfBroken:
    options = Namespace(rounds=2, output=file, overrides=["seed=1", *overrides], resume=resume)
    study = HalfBroken(options, [["broken", "sound"]], {"sizes": (1, 2)})
    study.asked = []
    return study


def test_a_study_goes_on_without_who_failed_and_says_so_at_the_end(tmp_path: Path) -> None:
    study = half_broken(tmp_path / "result.json")
    with pytest.raises(UserError, match="broken failed: last line"):
        study.run()
    assert study.asked == ["broken", "sound", "sound"]
    found = json.loads((tmp_path / "result.json").read_text())
    assert [round and round["seconds"] for round in found["rounds"]["broken"]] == [None, None]
    assert [round and round["seconds"] for round in found["rounds"]["sound"]] == [1.0, 1.0]
    assert (found["overrides"], list(found["failed"]), found["finished"]) == (["seed=1"], ["broken"], True)
    assert any("2" in line for line in found["table"])
    assert study.ratio("sound", "broken", "seconds") is None


def test_a_study_that_was_stopped_goes_on_with_the_rounds_it_had_of_the_same_measurements(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    stopped = half_broken(file)
    stopped._turn("broken")
    stopped._turn("sound")
    stopped.leave()
    assert json.loads(file.read_text())["finished"] is False
    others, afresh = half_broken(file, True, "epochs=3"), half_broken(file)
    resumed = half_broken(file, True)
    for study, asked in ((others, 4), (afresh, 4), (resumed, 3)):
        study.fails = False
        study.run()
        # Only what had failed, and what had not had its turn.
        assert len(study.asked) == asked


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


def test_nobody_is_treated_otherwise_where_all_are_to_be_alike() -> None:
    same = {"compile": True, "channels_last": True, "fused": False}
    results = {"ours": [HONEST | {"treatment": same}], "theirs": [HONEST | {"treatment": same | {"compile": False}}]}
    assert unlike(results) == ["theirs was treated otherwise: channels_last; must be compile, channels_last"]
    assert unlike({"ours": results["ours"]}) == []


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
    overrides = [
        "data=digits",
        "data.train_size=70",
        "batch_size=32",
        "model.channels=[4,8]",
        "device=cpu",
        "threads=1",
    ]
    output = tmp_path / "result.json"
    train.main(
        [*overrides, "--alike", "--rounds", "1", "--only", "this harness,DataLoader loop (0", "--output", str(output)]
    )
    found = json.loads(output.read_text())
    names = ["this harness", "DataLoader loop (0 workers)"]
    assert list(found["rounds"]) == names
    for name in names:
        (result,) = found["rounds"][name]
        # 70 images are two whole batches; the six left over are nobody's.
        assert (result["images"], result["steps"], result["precision"]) == (64, 2, "fp32")
        treatment = {"compile": False, "channels_last": True, "fused": True, "cuda_graphs": False}
        assert result["treatment"] == treatment
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


@pytest.mark.slow
def test_an_accuracy_below_the_aim_is_no_success_and_told_with_its_data_and_wall_seconds(tmp_path: Path) -> None:
    output = tmp_path / "accuracy.json"
    small = ["data=digits", "data.train_size=64", "model.channels=[4]", "epochs=2", "device=cpu", "threads=1"]
    with pytest.raises(UserError, match=r"missed: test accuracy \d+\.\d\d% of 100\.00% aimed at, seed 0"):
        accuracy.main([*small, "--aim", "1", "--output", str(output)])
    found = json.loads(output.read_text())
    ((row,),) = found["rounds"].values()
    assert (row["reached"], found["aim"], found["data"]) == (False, 1.0, "1,438 + 359 images of digits")
    assert len(found["missed"]) == 1
    # Imports alone take longer than these epochs.
    assert row["wall_seconds"] > row["epochs"][1]["wall_seconds"] > row["epochs"][0]["wall_seconds"] > 0.5
    assert row["epoch_seconds"] < row["wall_seconds"]
    assert found["under_way"] == []


def test_decoded_images_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(4):
            colour = (50 * number, len(place), ord(place[-1]))
            Image.new("RGB", (8, 8), colour).save(tmp_path / place / f"{number}.jpg", quality=75)
    config, _ = compose_config(["data=image_folder", f"data.root={tmp_path}", "data.image_size=8"])
    expected = load_dataset(config.data).fingerprint
    work.decode(config.data, tmp_path / "decoded.pt")
    monkeypatch.setattr(sources, "find", sources.find)  # put back afterwards
    told = work.take_images_from(tmp_path / "decoded.pt")
    elsewhere, _ = compose_config(["data=image_folder", "data.root=elsewhere", "data.image_size=8"])
    assert load_dataset(elsewhere.data).fingerprint == expected
    assert told == f"8 + 8 images of image_folder {tmp_path.name}, JPEG 4:2:0"


def test_runs_that_take_turns_in_one_process_end_with_the_bits_of_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = compose_config(["data=synthetic", "data.image_size=8", "model.channels=[4]", "device=cpu", "threads=1"])
    options = Namespace(counts=[1, 2], batches=[4], steps=2, repeats=1)
    row = probe._in_one_process(config, options)
    assert row["equal"] == {"4": {"1": True, "2": True}}
    assert row["milliseconds"]["alone"]["4"].keys() == row["milliseconds"][probe.ONE]["4"].keys() == {"1", "2"}
    monkeypatch.setattr(probe, "_in_turn", lambda lanes, steps: lanes[-1].train(steps))
    assert probe._in_one_process(config, options)["equal"] == {"4": {"1": True, "2": False}}


@pytest.mark.parametrize(
    ("together", "equal", "words"),
    [
        (2.0, True, "2.50 times one after the other (small_cnn, batch 128, 4 runs; equal bits); reaches 2.0, worth"),
        (
            4.0,
            True,
            "1.25 times one after the other (small_cnn, batch 128, 4 runs; equal bits); does not reach 2.0, not",
        ),
        (2.0, False, "2.50 times one after the other (small_cnn, batch 128, 4 runs; bits differ); does not reach"),
    ],
)
def test_the_probe_concludes_whether_to_build_it(tmp_path: Path, together: float, equal: bool, words: str) -> None:
    options = Namespace(
        counts=[1, 4], batches=[128], steps=1, repeats=1, rounds=1, output=tmp_path / "x", overrides=[], resume=False
    )
    study = probe._Probe(options, [probe.ONE, probe.MANY])
    assert study.conclusion().startswith("no conclusion")
    # One run at once is no gain, however the clock went.
    times = {"alone": {"128": {"1": 9.0, "4": 5.0}}, probe.ONE: {"128": {"1": 1.0, "4": together}}}
    row = {"milliseconds": times, "equal": {"128": {"1": True, "4": equal}}, "device": "cpu"}
    study.rounds[f"small_cnn, {probe.ONE}"].append(row)
    assert words in study.conclusion()
    assert "N processes with MPS not measured" in study.conclusion()
    assert len(study.wrong()) == (not equal)
    assert study.chart() is not None


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--fast"], {}, "--fast: must be --dry"),
        (["rates", "nothing"], {}, "nothing: must be of rates probe"),
        (["rates"], {"DATA": "/nonexistent"}, "DATA=/nonexistent: no such folder or file"),
        ([], {"SECONDS_IN_ALL": "soon"}, "SECONDS_IN_ALL=soon: must be a whole number"),
    ],
)
def test_gpu_bench_refuses_wrong_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        gpu.main(["--results", str(tmp_path), *arguments])


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["nothing"], {}, "nothing: must be of rates probe"),
        ([], {"WHEELS": "/nonexistent"}, "WHEELS=/nonexistent: must be a folder with wheels"),
    ],
)
def test_gpu_bench_sh_passes_on_what_is_wrong(arguments: list[str], environment: dict[str, str], message: str) -> None:
    command = ["bash", str(ROOT / "scripts" / "gpu_bench.sh"), *arguments]
    here = os.environ | {"PYTHON": sys.executable} | environment
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_gpu_bench_tells_parts_that_failed_from_those_stopped_or_without_tests(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as log:
        for line, status in (
            ("exit 0", "ok"),
            ("exit 3", "FAILED: exit status 3"),
            ("sleep 9", "STOPPED: 1 s were not"),
        ):
            found, said = gpu._result(["sh", "-c", f"echo said; {line}"], 1, log)
            assert found.startswith(status)
            assert said == ["said"]
        none, _ = gpu._result(["sh", "-c", "exit 5", "pytest"], 1, log)
    assert none == "skipped: no test has cuda in its name"
    assert (tmp_path / "log.txt").read_text() == 3 * "said\n"


def test_gpu_bench_has_a_sound_command_for_each_part_that_fits_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "cifar10.tar.xz")
    told = (ROOT / "scripts" / "gpu_bench.sh").read_text()
    for part, seconds in gpu.LIMITS.items():
        assert seconds + gpu.SET_UP < 500
        assert f"{part} {seconds}" in " ".join(told.split("# ")).replace("\n", "").replace("  ", "")
        for dry in (False, True):
            command = gpu._command(part, dry, None if dry else tmp_path / "images.pt", tmp_path / "x.json")
            assert isinstance(command, list)
            overrides = [word for word in command if "=" in word and "/" not in word]
            compose_config(overrides if part != "probe" else ["data=synthetic", *overrides])
    assert gpu._command("accuracy_long", False, None, tmp_path / "x.json") == "needs DATA, the images"


def test_gpu_bench_takes_no_finished_part_again_and_keeps_what_a_stopped_one_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What each part leaves in its file, and its exit status.
    left: dict[str, tuple[dict[str, Any] | None, int]] = {
        "rates": ({"rate": 1}, 0),
        "accuracy_short": ({"missed": ["missed: 93.00% of 94.00%"], "table": ["a table"]}, 2),
        "probe": ({"rounds": {"one": [{"a": 1}]}, "table": ["half a table"]}, 124),
    }

    def command(part: str, _dry: bool, _images: Path | None, file: Path) -> list[str]:
        content, status = left[part]
        write = f"import json, sys; open({str(file)!r}, 'w').write(json.dumps({content!r})); sys.exit({status})"
        return [sys.executable, "-c", write if content is not None else f"raise SystemExit({status})"]

    monkeypatch.setattr(gpu, "_command", command)
    call = ["--results", str(tmp_path), *left]
    with pytest.raises(SystemExit, match="1"):
        gpu.main(call)
    found = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in left}
    assert [told["status"][:8] for told in found.values()] == ["ok", "missed: ", "STOPPED:"]
    assert all({"date", "versions", "command", "gpu", "seconds"} <= told.keys() for told in found.values())
    assert found["probe"]["rounds"] == {"one": [{"a": 1}]}
    summary = (tmp_path / "summary.md").read_text()
    assert "half a table" in summary
    assert "93.00% of 94.00%" in summary
    left["probe"] = (None, 0)
    left["rates"] = left["accuracy_short"] = ({}, 3)  # would fail, were they taken again
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        gpu.main(call)
    said = capsys.readouterr().out
    assert "== probe" in said
    assert "== rates" not in said
    assert "== accuracy_short" not in said
    assert "half a table" not in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "probe.json").read_text())["rounds"] == {"one": [{"a": 1}]}
    gpu.main(["--results", str(tmp_path), "rates", "probe"])
    left["tests"] = ({}, 0)
    with pytest.raises(SystemExit, match="1"):
        gpu.main(["--results", str(tmp_path), "tests", "--began", "0"])
    assert json.loads((tmp_path / "tests.json").read_text())["status"].startswith("NOT BEGUN: may take 400 s")
