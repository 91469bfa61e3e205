"""A state by itself: what its digest tells apart, what comes back from its file, what is restored into what."""

import os
from dataclasses import asdict

import pytest
import torch
from torch import nn

from harness.record import EpochRow
from harness.training.state import (
    Aside,
    DamagedCheckpointError,
    TrainState,
    digest,
    load_state,
    restore,
    save_state,
    save_tensors,
    weights_sha256,
)

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
ROW = EpochRow(0, {"default": 0.125}, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, False)


def learner(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.125)


def train(model, optimizer):
    model(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).square().sum().backward()
    optimizer.step()


def bits(model, optimizer):
    return digest([model.state_dict(), optimizer.state_dict()["state"]])


def test_a_digest_tells_apart_whatever_may_differ_in_a_tree():
    tensor = torch.arange(4)
    trees = [
        tensor, tensor.int(), tensor.reshape(2, 2), tensor + 1, tensor[:0], tensor[:0].float(),
        {"a": 1}, {"b": 1}, {"a": 2}, {"a": 1, "b": 1}, {1: 1}, {"a": {"b": 1}}, {},
        [1], [1, 1], [[1], 1], [[1, 1]], [], [{}], None, 1, 1.0, True, "1", "", 0,
    ]  # fmt: skip
    assert len({digest(tree) for tree in trees}) == len(trees)


def test_a_digest_is_of_values_alone():
    images = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert digest(images) == digest(images.contiguous(memory_format=torch.channels_last))
    assert digest(images[..., 1:]) == digest(images[..., 1:].clone())
    assert digest(nn.Parameter(images)) == digest(images)
    assert digest({"a": 1, "b": [2]}) == digest({"b": (2,), "a": 1})
    assert digest(torch.tensor(1.0)) == digest(torch.tensor(1.0).clone())
    with pytest.raises(TypeError, match="cannot hash a set"):
        digest({"a": {1}})


def test_a_digest_has_not_changed_since_the_first_versions():
    """Else all states in people's stores, and the checkpoints of their runs, would count as damaged."""
    tree = {"weight": torch.arange(3.0), "step": 2, "groups": [{"lr": 0.1, "name": None}], "on": True}
    assert digest(tree) == "3a14125bafb345e7e07d45494efdff113d8c30ed36114704c5a55865f6952ad6"
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    assert weights_sha256(model) == digest({"weight": torch.ones(1, 1)})


def test_a_saved_state_is_read_back_whole_and_its_size_is_told(tmp_path):
    model, optimizer = learner()
    train(model, optimizer)
    state = TrainState(1, Aside(model, optimizer, NO_SCALER)(), (ROW,), {"seed": 0})
    size = save_state(tmp_path / "state.pt", state)
    assert size == (tmp_path / "state.pt").stat().st_size
    read = load_state(tmp_path / "state.pt")
    assert (read.epoch, read.rows, read.identity) == (1, (ROW,), {"seed": 0})
    assert digest(read.learned) == digest(state.learned)


def test_what_is_saved_is_on_the_disk_unless_that_is_not_asked_for(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for save, value in ((save_state, TrainState(0, {}, (), {})), (save_tensors, {})):
        save(tmp_path / "file.pt", value, durable=False)
        assert synced == []
        save(tmp_path / "file.pt", value)
        assert len(synced) == 2, "the file and its folder"
        synced.clear()


def test_what_was_not_written_so_is_not_believed(tmp_path):
    path = tmp_path / "state.pt"
    model, optimizer = learner()
    save_state(path, TrainState(1, Aside(model, optimizer, NO_SCALER)(), (ROW,), {"seed": 0}))
    written = torch.load(path, weights_only=True)
    for change, message in (
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"epoch": 2}, "does not match its checksum"),
        ({"digest": written["digest"][::-1]}, "does not match its checksum"),
    ):
        torch.save({**written, **change}, path)
        with pytest.raises(DamagedCheckpointError, match=message):
            load_state(path)
    path.write_bytes(b"PK")
    with pytest.raises(DamagedCheckpointError, match=r"state.pt: is damaged, or holds"):
        load_state(path)


class MakesAFolder:
    """What runs code as soon as an unwary reader loads it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["digest", "model", "rows", "identity"])
def test_code_in_a_state_s_file_is_refused_and_does_not_run(tmp_path, place):
    path = tmp_path / "state.pt"
    model, optimizer = learner()
    save_state(path, TrainState(1, Aside(model, optimizer, NO_SCALER)(), (ROW,), {"seed": 0}))
    torch.save({**torch.load(path, weights_only=True), place: [MakesAFolder(tmp_path / "made")]}, path)
    with pytest.raises(
        DamagedCheckpointError, match=r"state.pt: is damaged, or holds more than tensors and plain values$"
    ):
        load_state(path)
    assert not (tmp_path / "made").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "made").exists(), "the file holds no code, so nothing was shown"


def test_a_state_set_aside_stays_what_it_was_while_training_goes_on():
    model, optimizer = learner()
    train(model, optimizer)
    state = Aside(model, optimizer, NO_SCALER)()
    before = digest(state)
    train(model, optimizer)
    assert digest(state) == before != digest(Aside(model, optimizer, NO_SCALER)())


def test_tensors_in_an_optimizer_s_lists_are_set_aside_too():
    model, optimizer = learner()
    train(model, optimizer)
    held = torch.zeros(2)
    next(iter(optimizer.state.values()))["history"] = [held, (held,)]
    state = Aside(model, optimizer, NO_SCALER)()
    held.add_(1)
    assert next(iter(state["optimizer"].values()))["history"][0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("steps_since", [0, 1, 2])
def test_a_restored_learner_trains_on_as_the_one_that_was_set_aside(steps_before, steps_since):
    model, optimizer = learner()
    for _ in range(steps_before):
        train(model, optimizer)
    state, wanted = Aside(model, optimizer, NO_SCALER)(), bits(model, optimizer)
    other, others = learner(seed=1)
    for _ in range(steps_since):
        train(other, others)
    others.param_groups[0]["lr"] = 0.5
    restore(state, other, others, NO_SCALER)
    assert others.param_groups[0]["lr"] == 0.5
    assert bits(other, others) == wanted
    others.param_groups[0]["lr"] = 0.125
    for each in ((model, optimizer), (other, others)):
        each[1].zero_grad()
        train(*each)
    assert bits(other, others) == bits(model, optimizer)


def test_the_scale_of_gradients_goes_with_the_state():
    model, optimizer = learner()
    state = Aside(model, optimizer, torch.amp.GradScaler("cpu", init_scale=8.0))()
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    restore(state, model, optimizer, other)
    assert other.get_scale() == 8.0
    restore(Aside(model, optimizer, NO_SCALER)(), model, optimizer, other)
    assert other.get_scale() == 8.0


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "1"}, {"epoch": True}, {"epoch": 2}, {"identity": 3}, {"model": 3}, {"optimizer": []},
        {"scaler": None}, {"rows": 3}, {"rows": [{**asdict(ROW), "lr": 3}]}, {"rows": [{**asdict(ROW), "epoch": 7}]},
        {"rows": [{**asdict(ROW), "val_accuracy": "0.5"}]}, {"rows": [{**asdict(ROW), "seconds": "a"}]},
    ],
)  # fmt: skip
def test_a_file_with_a_fitting_digest_that_holds_no_state_is_damaged(tmp_path, change):
    path = tmp_path / "state.pt"
    learned = {"model": {}, "optimizer": {}, "scaler": {}}
    save_state(path, TrainState(1, learned, (ROW,), {"seed": 0}))
    load_state(path)
    content = torch.load(path, weights_only=True)
    del content["format"], content["digest"]
    content |= change
    torch.save({"format": 1, "digest": digest(content), **content}, path)
    with pytest.raises(DamagedCheckpointError, match="does not hold what a state does"):
        load_state(path)
