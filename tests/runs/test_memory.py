"""What a training step needs of the memory, and what follows from it."""

import json

import pytest
import torch
from support.small_runs import SMALL, train

from harness.app.compose import compose_config
from harness.errors import UserError
from harness.files import read_sealed
from harness.models.build import build_model
from harness.runs.memory import largest_batch, step_bytes
from harness.training import learner

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def network():
    return build_model(compose_config(["model=resnet20"])[0].model, SHAPE, 10, [2])


def test_what_a_step_needs_is_its_weights_four_times_and_as_much_for_each_image(network):
    one, two, three = (step_bytes(network, SHAPE, size, "fp32") for size in (16, 32, 48))
    assert three - two == two - one
    weights = sum(4 * parameter.numel() for parameter in network.parameters())
    assert one - (two - one) == pytest.approx(4 * weights, rel=0.01)  # and the means of batch norms
    # Measured by resident memory with AdamW and 512 images: 920 MB.
    assert step_bytes(network, SHAPE, 512, "fp32") == pytest.approx(920e6, rel=0.1)


def test_the_largest_batch_is_the_last_that_fits(network):
    limit = step_bytes(network, SHAPE, 64, "fp32")
    assert largest_batch(network, SHAPE, "fp32", limit, 4096) == 64
    assert largest_batch(network, SHAPE, "fp32", limit - 1, 4096) == 32
    assert largest_batch(network, SHAPE, "fp32", limit, 40) == 32
    assert largest_batch(network, SHAPE, "fp32", 1000, 4096) is None


def test_an_automatic_batch_size_is_recorded_as_what_it_came_to(tmp_path):
    small = [text for text in SMALL if not text.startswith("batch_size")]
    done = train(tmp_path, *small, "batch_size=auto", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "batch_size=auto: 2\n" in done.stdout  # 64 images leave 32 steps an epoch
    record = read_sealed(tmp_path / "run" / "request.json")
    assert record["config"]["batch_size"] == 2
    assert [text for text in record["overrides"] if "batch_size" in text] == ["batch_size=2"]
    assert "already completed" in train(tmp_path, "resume=run").stdout
    assert "already completed" in train(tmp_path, *small, "batch_size=auto", "resume=auto", "hydra.run.dir=run").stdout


def on_the_cpu(*_):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def while_a_graph_is_recorded(*_):
    try:
        raise torch.OutOfMemoryError("CUDA out of memory")
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize("no_room", [on_the_cpu, while_a_graph_is_recorded])
def test_out_of_memory_names_what_would_fit(small_run, tmp_path, monkeypatch, no_room):
    monkeypatch.setattr(learner, "train_epoch", no_room)
    monkeypatch.setattr("harness.runs.explained.free_bytes", lambda _: 60_000)
    with pytest.raises(UserError, match=r"batch_size=48: out of memory .* needs about .* must be smaller, 2 may"):
        small_run(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
