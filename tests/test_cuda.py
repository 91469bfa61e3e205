"""What only a GPU can show."""

import gc
import gzip
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
from harness.stages.store import StageStore
from harness.stages.walk import Sharing
from harness.training import learner, steps
from harness.training.devices import set_up
from harness.training.learner import Learner
from harness.training.optim import build_optimizer
from harness.training.state import weights_sha256
from harness.training.steps import build_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

# Seven whole batches an epoch and a smaller one, so that a graph is recorded, replayed and passed by.
ON_CUDA = [
    *(o for o in SMALL if not o.startswith(("device", "data.train_size", "batch_size"))),
    "device=cuda", "data.train_size=500", "batch_size=64", "model.dropout=0.2",
]  # fmt: skip
STEPS = ([], ["cuda_graphs=true"], ["compile=true"], ["compile=true", "cuda_graphs=true"])


def cuda_run(folder, *overrides, resume=False, sharing=None):
    keys = {override.partition("=")[0] for override in overrides}
    base = [o for o in ON_CUDA if o.partition("=")[0] not in keys and not (o.startswith("model.") and "model" in keys)]
    config, name = compose_config([*base, *overrides])
    return run(Request(config, name, folder, resume, sharing)).content()


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


@pytest.mark.parametrize(
    "settings",
    [
        ("precision=fp16",),
        ("data.cutout=3",),
        ("optimizer=sgd", "optimizer.nesterov=true", "cuda_graphs=true"),
        ("optimizer/groups=no_weight_decay", "cuda_graphs=true"),
        ("model=resnet20", "cuda_graphs=true"),
        ("model=resnet9", "label_smoothing=0.1", "cuda_graphs=true"),
    ],
    ids=",".join,
)
def test_a_run_is_continued_with_the_same_bits(tmp_path, settings):
    alone = cuda_run(tmp_path / "alone", *settings)
    cuda_run(tmp_path / "longer", *settings, "epochs=2")
    assert cuda_run(tmp_path / "longer", *settings, resume=True)["weights_sha256"] == alone["weights_sha256"]


def test_a_job_whose_graph_is_collected_late_leaves_the_next_one_s_alone(tmp_path, monkeypatch):
    alone = cuda_run(tmp_path / "alone", "cuda_graphs=true")
    original = steps.GraphedStep._record

    def collecting(self):
        result = original(self)
        gc.collect()
        return result

    monkeypatch.setattr(steps.GraphedStep, "_record", collecting)
    monkeypatch.setattr(steps.GraphedStep, "close", lambda self: None)
    cuda_run(tmp_path / "first", "cuda_graphs=true", "seed=1")
    assert cuda_run(tmp_path / "second", "cuda_graphs=true")["weights_sha256"] == alone["weights_sha256"]


def test_a_job_gives_its_memory_back(tmp_path):
    held = []
    for seed in range(3):
        cuda_run(tmp_path / str(seed), "cuda_graphs=true", f"seed={seed}")
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[1] == held[2]


def test_a_graph_goes_on_from_a_state_that_is_taken_over_after_its_recording(tmp_path):
    config, _ = compose_config([*ON_CUDA, "cuda_graphs=true"])
    compute, dataset = set_up(config), load_dataset(config.data)
    loader = Loader(dataset, config, compute.device)

    def made():
        return Learner(config, compute, lambda: build_model(config.model, dataset.shape, 10, [64]), 64)

    first, second = made(), made()
    first.epoch(0, loader.train(0))
    aside = first.aside()
    first.epoch(1, loader.train(1))
    second.epoch(0, loader.train(5))  # other batches: the graph is recorded, the weights differ
    second.load(aside(), 1)  # taken an epoch ago, and brought to the CPU only now
    second.epoch(1, loader.train(1))
    assert weights_sha256(second.model) == weights_sha256(first.model)


def test_shared_epochs_are_those_of_a_run_alone(tmp_path):
    alone = cuda_run(tmp_path / "alone", "cuda_graphs=true")
    store = StageStore(tmp_path / "stages", 10**9, 10**8)
    cuda_run(tmp_path / "before", "cuda_graphs=true", "scheduler.gamma=0.5", sharing=Sharing(store, True, 1))
    shared = cuda_run(tmp_path / "shared", "cuda_graphs=true", sharing=Sharing(store, True, 1))
    assert shared["epochs_reused"] == 2
    assert shared["weights_sha256"] == alone["weights_sha256"]


def test_deterministic_kernels_can_be_had_after_a_run_without(tmp_path):
    cuda_run(tmp_path / "fast", "deterministic=false")
    cuda_run(tmp_path / "exact", "deterministic=true")


def test_the_identity_is_the_same_whatever_ran_before_and_whatever_the_number_of_threads(tmp_path):
    records = []
    for name, settings in (("first", ()), ("fast", ("deterministic=false",)), ("second", ("threads=2",))):
        cuda_run(tmp_path / name, *settings)
        records.append(json.loads((tmp_path / name / "run.json").read_text())["identity"])
    assert records[0] == records[2]


def test_a_profile_has_the_gpu_s_kernels(tmp_path):
    cuda_run(tmp_path / "run", "profile=true")
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    assert '"cat": "kernel"' in gzip.decompress(trace.read_bytes()).decode()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("how", STEPS, ids="+".join)
def test_the_second_gpu_trains_as_the_first(tmp_path, how):
    first, second = (cuda_run(tmp_path / name, f"device=cuda:{name}", *how) for name in "01")
    assert first["weights_sha256"] == second["weights_sha256"]


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
