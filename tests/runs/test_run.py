import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.small_runs import ROOT, SMALL, read_rows, train_command, untimed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.app.compose import compose_config
from harness.data.dataset import load_dataset
from harness.errors import UserError
from harness.files import read_sealed
from harness.models.convnets import SmallCnn
from harness.training.state import digest


def scalars(folder):
    """{tag: [(step, value), ...]} of all event files, read by TensorBoard's own reader."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


@pytest.mark.draws
def test_a_run_leaves_the_files_of_the_design(small_run, tmp_path):
    summary = small_run(tmp_path)
    assert read_sealed(tmp_path / "summary.json") == summary
    assert summary["status"] == "completed"
    assert (summary["scheduler"], summary["seed"], summary["epochs"]) == ("multistep", 0, 4)
    assert (summary["epochs_trained"], summary["epochs_reused"]) == (4, 0)
    rows = read_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
        "images_per_second", "seconds", "reused", "wall_seconds",
    ]  # fmt: skip
    assert all(row["wall_seconds"] > row["seconds"] for row in rows)
    assert summary["wall_seconds"] > sum(row["wall_seconds"] for row in rows)
    assert summary["final_val_accuracy"] == rows[3]["val_accuracy"]
    assert summary["best_val_accuracy"] == max(row["val_accuracy"] for row in rows)
    assert rows[summary["best_epoch"]]["val_accuracy"] == summary["best_val_accuracy"]
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_model_pt_is_a_plain_state_dict_of_the_final_weights(small_run, tmp_path):
    summary = small_run(tmp_path)
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert digest(weights) == summary["weights_sha256"]
    SmallCnn([8], 0.0, (1, 8, 8), 10).load_state_dict(weights)


def test_run_json_holds_what_it_takes_to_use_the_weights(small_run, tmp_path):
    summary = small_run(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    network = SmallCnn([8], 0.0, (1, 8, 8), len(record["classes"]))
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    test = load_dataset(compose_config(["data=digits", "data.train_size=64"])[0].data).test
    pixels = test.images.pixels.permute(0, 3, 1, 2).float()
    logits = network.eval()((pixels - record["mean"][0]) / record["std"][0])
    assert int((logits.argmax(1) == test.labels).sum()) == round(summary["test_accuracy"] * len(test))


def test_the_rates_that_the_epochs_were_trained_with_are_1000_then_500(small_run, tmp_path):
    small_run(tmp_path, "optimizer.lr=1000", "scheduler.gamma=0.5")
    assert [row["lr"] for row in read_rows(tmp_path)] == [{"default": 1000.0}] * 2 + [{"default": 500.0}] * 2


@pytest.mark.draws
def test_both_parameter_groups_decay_and_are_logged(small_run, tmp_path):
    small_run(tmp_path, "+optimizer.groups.head={match: '^head', lr: 0.5}", "scheduler.gamma=0.5")
    assert [row["lr"] for row in read_rows(tmp_path)] == [{"default": 0.003, "head": 0.5}] * 2 + [
        {"default": 0.0015, "head": 0.25}
    ] * 2
    logged = scalars(tmp_path)
    assert [value for _, value in logged["lr/head"]] == [0.5, 0.5, 0.25, 0.25]
    assert [value for _, value in logged["lr/default"]] == pytest.approx([0.003, 0.003, 0.0015, 0.0015])


def test_tensorboard_reads_every_epoch_of_every_metric_once(small_run, tmp_path):
    summary = small_run(tmp_path)
    rows, logged = read_rows(tmp_path), scalars(tmp_path)
    for tag, field in {
        "train/loss": "train_loss",
        "train/accuracy": "train_accuracy",
        "val/loss": "val_loss",
        "val/accuracy": "val_accuracy",
        "throughput/images_per_second": "images_per_second",
    }.items():
        assert [step for step, _ in logged[tag]] == [0, 1, 2, 3]
        assert [value for _, value in logged[tag]] == pytest.approx([row[field] for row in rows])
    assert logged["test/accuracy"] == [(3, pytest.approx(summary["test_accuracy"]))]


def test_hyperparameters_and_their_result_are_in_the_run_s_own_event_file(small_run, tmp_path):
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    small_run(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "checkpoints"]
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = parse_session_start_info_plugin_data(content).hparams
    assert hparams["scheduler"].string_value == "multistep"
    assert hparams["milestones"].string_value == "[2]"
    assert hparams["gamma"].number_value == 0.1
    assert hparams["learning_rate"].number_value == 0.003


def test_the_same_command_gives_the_same_bits_and_another_seed_others(small_run, tmp_path):
    runs = {name: small_run(tmp_path / name, *extra) for name, extra in
            {"a": (), "b": (), "seed": ("seed=1",), "gamma": ("scheduler.gamma=0.5",)}.items()}  # fmt: skip
    assert runs["a"]["weights_sha256"] == runs["b"]["weights_sha256"]
    assert untimed(read_rows(tmp_path / "a")) == untimed(read_rows(tmp_path / "b"))
    assert len({run["weights_sha256"] for run in runs.values()}) == 3


def test_runs_that_differ_in_schedule_alone_are_the_same_until_their_rates_differ(small_run, tmp_path):
    small_run(tmp_path / "multistep")
    small_run(tmp_path / "constant", "scheduler=constant")
    decayed, constant = (untimed(read_rows(tmp_path / name)) for name in ("multistep", "constant"))
    assert decayed[:2] == constant[:2]
    assert decayed[2]["train_loss"] != constant[2]["train_loss"]


def test_dropout_too_follows_from_seed_and_epoch(small_run, tmp_path):
    first = small_run(tmp_path / "a", "model.dropout=0.5")
    assert first["weights_sha256"] == small_run(tmp_path / "b", "model.dropout=0.5")["weights_sha256"]
    assert first["weights_sha256"] != small_run(tmp_path / "c")["weights_sha256"]


def test_a_completed_run_from_before_there_were_digests_is_completed(small_run, tmp_path):
    summary = small_run(tmp_path)
    del summary["files"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "checkpoints" / "epoch_00004.pt").unlink()
    assert small_run(tmp_path, resume=True) == {**summary, "files": None}


def test_a_folder_that_holds_a_run_is_not_overwritten(small_run, tmp_path):
    small_run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run; continue it with resume="):
        small_run(tmp_path, "seed=1")
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.draws
def test_a_diverged_run_is_a_result_with_null_losses(small_run, tmp_path, caplog):
    summary = small_run(tmp_path, "optimizer=sgd", "optimizer.lr=1e30")
    assert summary["status"] == "completed"
    assert summary["test_loss"] is None
    rows = read_rows(tmp_path)
    assert rows[-1]["val_loss"] is None
    assert rows[-1]["val_accuracy"] < 0.3
    assert caplog.text.count("training diverged in epoch 0 at step 1 at learning rate 1e+30") == 1
    assert math.isnan(scalars(tmp_path)["val/loss"][-1][1])


def test_a_run_that_is_to_stop_does_so_after_the_epoch_that_diverged_and_can_be_told_to_go_on(small_run, tmp_path):
    diverging = ("optimizer=sgd", "optimizer.lr=1e30")
    with pytest.raises(UserError, match=r"stop_on_nan=true: .* epoch 0 at step 1 at learning rate 1e\+30; a lower"):
        small_run(tmp_path, *diverging, "stop_on_nan=true")
    assert [row["train_loss"] for row in read_rows(tmp_path)] == [None]
    assert read_sealed(tmp_path / "summary.json")["status"] == "failed"
    assert small_run(tmp_path, *diverging, resume=True)["status"] == "completed"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=cuda"], "device=cuda: .*must be auto or cpu"),
        (["precision=fp16"], "precision=fp16: needs a CUDA device"),
        (["model.channels=[4,4,4,4]"], "must have at most 3 entries"),
        (["model=resnet18", "data.train_size=65", "batch_size=64"], "a batch of 1 gives: Expected more than 1"),
        (["model=torchvision", "model.architecture=resnt18"], r"did you mean resnet18\?"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA says")
def test_what_cannot_run_is_refused_before_training(small_run, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        small_run(tmp_path, *overrides)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.draws
def test_the_network_can_be_one_of_torchvision(small_run, tmp_path):
    summary = small_run(
        tmp_path, "model=torchvision", "model.architecture=mobilenet_v3_small", "epochs=1", "scheduler=constant"
    )
    assert summary["status"] == "completed"


def test_bf16_runs_on_the_cpu_and_gives_other_bits(small_run, tmp_path):
    assert small_run(tmp_path / "a", "precision=bf16")["weights_sha256"] != small_run(tmp_path / "b")["weights_sha256"]


def test_a_schedule_of_ones_own_that_is_not_the_same_twice_is_named(small_run, tmp_path):
    target = "scheduler._target_=support.schedules.Random"
    others = ["scheduler=constant", "allow=[support]", "~scheduler.factor", "~scheduler.total_iters"]
    with pytest.raises(UserError, match=rf"^{re.escape(target)}: gives epoch 0 the learning rate 0\."):
        small_run(tmp_path, target, *others)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_is_a_message(tmp_path):
    for command in (
        train_command(*SMALL, f"hydra.run.dir={tmp_path / 'run'}"),
        [sys.executable, ROOT / "scripts" / "preview.py"],
    ):
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=-1, text=True, check=False)
        assert ended.returncode == 2
        assert ended.stderr == "error: standard output: cannot be written: No space left on device\n"
    assert not (tmp_path / "run").exists()
