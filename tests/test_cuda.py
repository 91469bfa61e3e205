"""What only a GPU can show."""

import json

import pytest
import torch
from support.small_runs import SMALL, read_rows, untimed

from harness.app.compose import compose_config
from harness.data.dataset import load_dataset
from harness.data.loader import Loader
from harness.models.build import build_model
from harness.runs.request import Request
from harness.runs.run import run
from harness.training import learner
from harness.training.devices import set_up
from harness.training.optim import build_optimizer
from harness.training.steps import build_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

# Seven whole batches an epoch and a smaller one, so that a graph is recorded, replayed and passed by.
ON_CUDA = [
    *(o for o in SMALL if not o.startswith(("device", "data.train_size", "batch_size"))),
    "device=cuda", "data.train_size=500", "batch_size=64", "model.dropout=0.2",
]  # fmt: skip
STEPS = ([], ["cuda_graphs=true"], ["compile=true"], ["compile=true", "cuda_graphs=true"])


def cuda_run(folder, *overrides, resume=False):
    keys = {override.partition("=")[0] for override in overrides}
    config, name = compose_config([*(o for o in ON_CUDA if o.partition("=")[0] not in keys), *overrides])
    return run(Request(config, name, folder, resume)).content()


@pytest.mark.parametrize("how", STEPS, ids="+".join)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(how, precision):
    config, _ = compose_config(["data=digits", "batch_size=128", "device=cuda", f"precision={precision}", *how])
    compute = set_up(config)
    dataset = load_dataset(config.data)
    model = build_model(config.model, dataset.shape, 10, [128]).to(compute.device)
    optimizer = build_optimizer(config.optimizer, model)
    loader = Loader(dataset, config, compute.device)
    step = build_step(config, compute, model, optimizer, compute.scaler(), 128)
    for images, labels in loader.train(0):
        step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels in loader.train(1):
            step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("how", STEPS, ids="+".join)
def test_the_same_command_gives_the_same_bits(tmp_path, how):
    first, second = (cuda_run(tmp_path / name, *how) for name in ("first", "second"))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert untimed(read_rows(tmp_path / "first")) == untimed(read_rows(tmp_path / "second"))


@pytest.mark.parametrize("how", STEPS, ids="+".join)
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, how):
    alone = cuda_run(tmp_path / "alone", *how)
    original, epochs = learner.train_epoch, []

    def dies_in_the_third(*args):
        epochs.append(None)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(learner, "train_epoch", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        cuda_run(tmp_path / "resumed", *how)
    monkeypatch.undo()
    resumed = cuda_run(tmp_path / "resumed", *how, resume=True)
    assert resumed["weights_sha256"] == alone["weights_sha256"]
    assert untimed(read_rows(tmp_path / "resumed")) == untimed(read_rows(tmp_path / "alone"))


def test_a_graph_trains_as_the_plain_step_at_a_rate_that_float32_holds(tmp_path):
    rates = ("optimizer.lr=0.001953125", "scheduler.gamma=0.5", "epochs=4")
    plain = cuda_run(tmp_path / "plain", *rates)
    graphed = cuda_run(tmp_path / "graphed", *rates, "cuda_graphs=true")
    assert graphed["weights_sha256"] == plain["weights_sha256"]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_trains(tmp_path, precision):
    summary = cuda_run(tmp_path / precision, f"precision={precision}", "epochs=6", "data.train_size=1000")
    assert summary["final_val_accuracy"] > 0.5
    assert json.loads((tmp_path / precision / "summary.json").read_text())["device"] == torch.cuda.get_device_name()
