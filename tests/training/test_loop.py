import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from harness.training.loop import TrainStep, evaluate, read, train_epoch

NO_AUTOCAST = torch.autocast("cpu", enabled=False)


class RecordingSGD(torch.optim.SGD):
    def __init__(self, parameters, calls):
        self.calls = calls
        super().__init__(parameters, lr=0.1)

    def zero_grad(self, set_to_none=True):
        self.calls.append("zero_grad")
        super().zero_grad(set_to_none)

    def step(self, closure=None):
        self.calls.append("optimizer.step")
        return super().step(closure)


class RecordingMultiStepLR(torch.optim.lr_scheduler.MultiStepLR):
    def step(self):
        if self.last_epoch >= 0:  # torch itself steps it once when it is made
            self.optimizer.calls.append("scheduler.step")
        super().step()


def training_on(batches, calls):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model.register_forward_pre_hook(lambda *_: calls.append("forward"))
    model[1].weight.register_hook(lambda gradient: calls.append("backward"))
    optimizer = RecordingSGD(model.parameters(), calls)
    scheduler = RecordingMultiStepLR(optimizer, milestones=[1], gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return model, optimizer, train_epoch(TrainStep(model, optimizer, scaler, NO_AUTOCAST), batches, scheduler).score()


def batches_of(*sizes):
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 1, 2, 2, generator=rng), torch.randint(0, 3, (n,), generator=rng)) for n in sizes]


def test_every_batch_steps_the_optimizer_and_the_epoch_steps_the_scheduler_once_afterwards():
    calls = []
    _, optimizer, _ = training_on(batches_of(4, 4, 2), calls)
    assert calls == ["zero_grad", "forward", "backward", "optimizer.step"] * 3 + ["scheduler.step"]
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_the_update_is_that_of_the_plain_loop():
    batches = batches_of(4, 4, 2)
    torch.manual_seed(1)
    model, _, _ = training_on(batches, [])
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    assert torch.equal(model[1].weight, plain[1].weight)


def test_scores_weigh_every_image_alike_in_uneven_batches():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    batches = batches_of(5, 1)
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    logits = model(images)
    score = evaluate(model, batches, NO_AUTOCAST).score()
    assert score.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert score.accuracy == (logits.argmax(1) == labels).double().mean().item()


class Reads(TorchDispatchMode):
    """Notes each number that is read from where the tensors lie."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_training_and_validation_leave_it_to_one_reading_to_wait_for_the_device():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    step = TrainStep(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), NO_AUTOCAST)
    with Reads() as reads:
        trained = train_epoch(step, batches_of(4, 4, 2), scheduler)
        val = evaluate(model, batches_of(5), NO_AUTOCAST)
    assert reads.count == 0
    assert read(trained, val) == [trained.score(), val.score()]


def test_evaluation_neither_trains_nor_moves_running_statistics():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, batches_of(5), NO_AUTOCAST)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
