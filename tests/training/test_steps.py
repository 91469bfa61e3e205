import gzip
import json
import platform
import re

import pytest
import torch
from support.processes import run_script
from support.small_runs import SMALL, read_rows, untimed
from torch import nn
from torch.nn import functional as F

from harness.app.compose import compose_config
from harness.errors import UserError
from harness.training import steps
from harness.training.devices import set_up
from harness.training.learner import Learner
from harness.training.loop import TrainStep, train_epoch
from harness.training.state import Aside, restore
from harness.training.steps import GraphedStep

NO_AUTOCAST = torch.autocast("cpu", enabled=False)
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


class PlayedStep(GraphedStep):
    """A graph's step without a GPU: recording computes nothing, a replay computes what was recorded."""

    records = 0

    def _warm_up(self, images, labels):
        return self._step(images, labels)

    def _record(self):
        self.records += 1
        assert all(isinstance(group["lr"], torch.Tensor) for group in self._optimizer.param_groups)
        return torch.empty(()), torch.empty(len(self._labels), 3)

    def _replay(self):
        with self._rates_on_the_device():
            result = self._step(self._images, self._labels)
        for recorded, value in zip(self._recorded, result, strict=True):
            recorded.copy_(value)


def made(optimizer, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return model, optimizer(model.parameters(), lr=0.125, fused=True, **settings)


def epochs(step, optimizer):
    """Three epochs of five whole batches and one smaller one, at rates that float32 holds exactly."""
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 2], gamma=0.5)
    rng = torch.Generator().manual_seed(1)
    scores = []
    for _ in range(3):
        batches = [(torch.randn(n, 1, 2, 2, generator=rng), torch.randint(0, 3, (n,), generator=rng)) for n in
                   (4, 4, 4, 4, 4, 2)]  # fmt: skip
        scores.append(train_epoch(step, batches, scheduler).score())
    return scores


@pytest.mark.parametrize(
    ("optimizer", "settings"), [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9, "nesterov": True})]
)
def test_a_graph_is_recorded_once_and_trains_as_the_plain_step_at_every_rate(optimizer, settings):
    model, plain = made(optimizer, **settings)
    wanted = epochs(TrainStep(model, plain, NO_SCALER, NO_AUTOCAST), plain)
    graphed_model, graphed = made(optimizer, **settings)
    step = PlayedStep(TrainStep(graphed_model, graphed, NO_SCALER, NO_AUTOCAST), batch_size=4)
    assert epochs(step, graphed) == wanted
    assert step.records == 1
    assert torch.equal(graphed_model[1].weight, model[1].weight)
    assert [type(group["lr"]) for group in graphed.param_groups] == [float]


def test_a_state_is_restored_into_the_tensors_that_a_graph_holds():
    model, optimizer = made(torch.optim.AdamW)
    epochs(TrainStep(model, optimizer, NO_SCALER, NO_AUTOCAST), optimizer)
    state = Aside(model, optimizer, NO_SCALER)()
    held = [*model.parameters(), *(value for entry in optimizer.state.values() for value in entry.values())]
    wanted = [tensor.detach().clone() for tensor in held]
    epochs(TrainStep(model, optimizer, NO_SCALER, NO_AUTOCAST), optimizer)
    assert not torch.equal(held[0], wanted[0])
    restore(state, model, optimizer, NO_SCALER)
    after = [*model.parameters(), *(value for entry in optimizer.state.values() for value in entry.values())]
    assert [id(tensor) for tensor in after] == [id(tensor) for tensor in held]
    assert all(map(torch.equal, after, wanted))


def test_labels_are_smoothed_in_training_and_never_where_the_network_is_scored():
    config, _ = compose_config([*SMALL, "label_smoothing=0.3"])
    learner = Learner(config, set_up(config), lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), batch_size=4)
    images, labels = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 1])
    says = F.log_softmax(learner.model(images), dim=1).detach()
    plain, spread = -says[range(4), labels].mean(), -says.mean()
    assert learner.score([(images, labels)]).score().loss == pytest.approx(plain.item())
    assert learner.epoch(0, [(images, labels)]).score().loss == pytest.approx((0.7 * plain + 0.3 * spread).item())


def test_graphs_without_a_gpu_are_refused_by_name(small_run, tmp_path):
    with pytest.raises(UserError, match="cuda_graphs=true: needs a CUDA device, must be false on cpu"):
        small_run(tmp_path / "run", "cuda_graphs=true")


def test_one_shape_is_compiled_once_for_all_jobs_with_the_same_network(small_run, tmp_path, monkeypatch):
    seen, resets = [], []

    class Compiled(nn.Module):
        def __init__(self, network, dynamic):
            super().__init__()
            self.network = network

        def forward(self, images):
            seen.append((len(images), self.training))
            return self.network(images)

    monkeypatch.setattr(torch, "compile", Compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    monkeypatch.setattr(steps, "_compiled_for", "")
    alone = small_run(tmp_path / "alone", "label_smoothing=0.3")
    compiled = small_run(tmp_path / "compiled", "label_smoothing=0.3", "compile=true")
    assert compiled["weights_sha256"] == alone["weights_sha256"]
    small_run(tmp_path / "other_schedule", "compile=true", "seed=1", "scheduler.gamma=0.5")
    assert set(seen) == {(48, True)}
    assert len(resets) == 1
    small_run(tmp_path / "other_network", "compile=true", "model.channels=[4]")
    assert len(resets) == 2


def test_a_profiled_run_leaves_a_trace_and_trains_the_same(small_run, tmp_path, caplog):
    alone = small_run(tmp_path / "alone")
    with caplog.at_level("INFO"):
        profiled = small_run(tmp_path / "profiled", "profile=true")
    (trace,) = (tmp_path / "profiled" / "profile").iterdir()
    assert trace.name == "epoch_00001.pt.trace.json.gz"
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"next batch", "aten::convolution_backward", "Optimizer.step#AdamW.step"} <= names
    assert any(re.search(r"costliest operations: .*aten::\S+ \d+ %", message) for message in caplog.messages)
    assert any("the network waited for batches" in message for message in caplog.messages)
    assert profiled["weights_sha256"] == alone["weights_sha256"]
    assert untimed(read_rows(tmp_path / "profiled")) == untimed(read_rows(tmp_path / "alone"))
    small_run(tmp_path / "short", "profile=true", "epochs=1")
    assert (tmp_path / "short" / "profile" / "epoch_00000.pt.trace.json.gz").exists()


def test_a_trace_that_cannot_be_written_does_not_end_the_training(small_run, tmp_path, caplog):
    (tmp_path / "run" / "profile" / "epoch_00001.pt.trace.json.gz").mkdir(parents=True)
    assert small_run(tmp_path / "run", "profile=true")["status"] == "completed"
    assert any("epoch_00001.pt.trace.json.gz cannot be written" in message for message in caplog.messages)


FAULTS = """
import resource, sys, torch
from harness.machine import keep_freed_memory
sys.argv[1] == "kept" and keep_freed_memory()
def activations():
    torch.ones(16 * 2**20)
    torch.ones(2**20)
for _ in range(8):
    activations()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    activations()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_without_page_faults(tmp_path):
    (tmp_path / "faults.py").write_text(FAULTS)
    faults = {
        how: int(run_script(tmp_path / "faults.py", how, folder=tmp_path).stdout) for how in ("kept", "given_back")
    }
    assert faults["kept"] < 1000 < faults["given_back"]
