import errno
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.small_runs import SMALL, read_rows, train, train_command, untimed
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from harness.app.compose import compose_config
from harness.compare.load import load_runs
from harness.data.loader import Loader
from harness.errors import UserError
from harness.files import changed, read_object, read_sealed, write_sealed
from harness.record import holds_run
from harness.runs import checkpoints
from harness.runs import run as run_module
from harness.runs.checkpoints import Checkpoints
from harness.runs.tracking import Tracker
from harness.stages.store import StageStore
from harness.stages.walk import Sharing
from harness.training import learner
from harness.training.state import DamagedCheckpointError, digest, load_state, save_state


class Killed(BaseException):
    """As sudden as SIGKILL to the code under test: no handler of ordinary exceptions sees it."""


def killed(monkeypatch, start, cls, method, call, *, after):
    """Call `start`, dying before or after the call number `call` of a method."""
    original, calls = getattr(cls, method), []

    def dying(*args, **kwargs):
        calls.append(None)
        if after:
            original(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        if not after:
            original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(cls, method, dying)
        with pytest.raises(Killed):
            start()


def written_steps(folder):
    """How often each (tag, step) stands in the raw event files: no reader has purged anything here."""
    counts = {}
    for path in folder.glob("events.out.tfevents.*"):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    counts[value.tag, event.step] = counts.get((value.tag, event.step), 0) + 1
    return counts


def assert_as_uninterrupted(resumed, folder, alone, alone_folder):
    assert resumed["weights_sha256"] == alone["weights_sha256"]
    assert untimed(read_rows(folder)) == untimed(read_rows(alone_folder))
    assert written_steps(folder) == written_steps(alone_folder)
    assert set(written_steps(folder).values()) == {1}
    timeless = [
        {k: v for k, v in summary.items() if k not in ("seconds", "wall_seconds", "files", "sha256")}
        for summary in (resumed, alone)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("cls", "method", "call", "after"),
    [
        (Tracker, "epoch", 1, False),
        (Tracker, "epoch", 3, False),
        (Tracker, "epoch", 3, True),
        (Checkpoints, "save", 1, False),
        (Checkpoints, "save", 3, True),
        (Checkpoints, "save", 4, True),
        (Tracker, "finish", 1, False),
        (Tracker, "finish", 1, True),
    ],
)
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_killed_anywhere_and_resumed_ends_as_if_it_had_not_been(
    small_run, tmp_path, monkeypatch, cls, method, call, after, every
):
    settings = ("epochs=6", f"checkpoint.every={every}", "model.dropout=0.3", "scheduler.milestones=[2,5]")
    alone = small_run(tmp_path / "alone", *settings)
    if cls is Checkpoints:
        call = min(call, 6 // every)
    killed(monkeypatch, lambda: small_run(tmp_path / "killed", *settings), cls, method, call, after=after)
    done = max([0, *Checkpoints(tmp_path / "killed" / "checkpoints", 1, 2).files()])
    trained = []
    original = learner.train_epoch
    monkeypatch.setattr(learner, "train_epoch", lambda *a: trained.append(None) or original(*a))
    resumed = small_run(tmp_path / "killed", *settings, resume=True)
    assert len(trained) == 6 - done
    assert_as_uninterrupted(resumed, tmp_path / "killed", alone, tmp_path / "alone")
    assert saved(tmp_path / "killed") == saved(tmp_path / "alone")


@pytest.mark.parametrize("optimizer", ["optimizer=sgd", "optimizer.amsgrad=true", "optimizer/groups=no_weight_decay"])
def test_every_optimizer_s_state_survives(small_run, tmp_path, monkeypatch, optimizer):
    alone = small_run(tmp_path / "alone", optimizer)
    killed(monkeypatch, lambda: small_run(tmp_path / "killed", optimizer), Checkpoints, "save", 2, after=True)
    resumed = small_run(tmp_path / "killed", optimizer, resume=True)
    assert_as_uninterrupted(resumed, tmp_path / "killed", alone, tmp_path / "alone")


def command_line(*overrides):
    return [*SMALL, "epochs=60", "scheduler.milestones=[30]", "hydra.run.dir=run", *overrides]


def start_until_epoch(folder, epoch):
    process = subprocess.Popen(
        train_command(*command_line()), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    rows = folder / "run" / "metrics.jsonl"
    while not (rows.exists() and rows.read_bytes().count(b"\n") > epoch):
        with suppress(subprocess.TimeoutExpired):
            raise AssertionError(process.wait(0.01), process.stderr.read())
    return process


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finished = train(folder, *command_line())
    assert finished.returncode == 0, finished.stderr
    return folder / "run"


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_sigkill_then_resume_gives_the_same_bits_through_train_py(tmp_path, alone):
    process = start_until_epoch(tmp_path, 20)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = train(tmp_path, "resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert_as_uninterrupted(summary_of(tmp_path / "run"), tmp_path / "run", summary_of(alone), alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_run_where_the_printed_command_continues_it(tmp_path, alone, number):
    process = start_until_epoch(tmp_path, 10)
    process.send_signal(number)
    output, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    summary = summary_of(tmp_path / "run")
    assert summary["status"] == "interrupted"
    assert 10 < summary["epochs_trained"] == len(read_rows(tmp_path / "run")) < 60
    command = next(line for line in output.splitlines() if "continue with: " in line).partition("continue with: ")[2]
    assert command == "python train.py resume=run"
    continued = train(tmp_path, "resume=run")
    assert continued.returncode == 0, continued.stderr
    assert_as_uninterrupted(summary_of(tmp_path / "run"), tmp_path / "run", summary_of(alone), alone)


def handles(process, number):
    """Whether the process has set a handler for the signal, by what Linux says."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_before_there_is_a_run_says_so_and_leaves_nothing(tmp_path, number):
    command = train_command(*SMALL, "hydra.run.dir=run")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not handles(process, number):
        assert process.poll() is None
    process.send_signal(number)
    output, errors = process.communicate()
    assert process.returncode == 128 + number
    assert output == ""
    assert errors.startswith(f"stopped by {signal.Signals(number).name} before anything was trained; the same command")
    assert not list(tmp_path.iterdir())


def test_a_signal_in_the_final_evaluation_loses_no_epoch(small_run, tmp_path, monkeypatch):
    alone, original = small_run(tmp_path / "alone"), Loader.evaluation

    def interrupted(self, part):
        if part == "test":
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "evaluation", interrupted)
        with pytest.raises(SystemExit) as stopped:
            small_run(tmp_path / "run")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert summary_of(tmp_path / "run")["status"] == "interrupted"
    assert not (tmp_path / "run" / "model.pt").exists()
    with monkeypatch.context() as patch:
        patch.setattr(learner, "train_epoch", lambda *_: pytest.fail("an epoch is trained again"))
        resumed = small_run(tmp_path / "run", resume=True)
    assert_as_uninterrupted(resumed, tmp_path / "run", alone, tmp_path / "alone")


def test_between_checkpoints_a_signal_lets_the_epoch_finish_and_be_saved(small_run, tmp_path, monkeypatch):
    original = learner.train_epoch

    def interrupted_in_epoch_1(*args):
        if len(list(tmp_path.glob("metrics.jsonl"))) and len(read_rows(tmp_path)) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(learner, "train_epoch", interrupted_in_epoch_1)
    monkeypatch.setattr(Checkpoints, "is_due", lambda *_: False)
    with pytest.raises(SystemExit) as stopped:
        small_run(tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_00002.pt"]
    assert len(read_rows(tmp_path)) == 2


def saved(folder):
    return set(Checkpoints(folder / "checkpoints", 1, 2).files())


def test_the_last_two_checkpoints_and_the_best_are_kept(small_run, tmp_path):
    summary = small_run(tmp_path, "epochs=8", "scheduler.milestones=[2]")
    assert saved(tmp_path) == {7, 8, summary["best_epoch"] + 1}


@pytest.mark.parametrize("best_epoch", [0, 1, 4, 6])
def test_a_best_epoch_between_checkpoints_is_kept_as_it_was_then(small_run, tmp_path, monkeypatch, best_epoch):
    small_run(tmp_path / "dense", "epochs=7", "checkpoint.keep=9")
    best_in(monkeypatch, best_epoch)
    small_run(tmp_path / "sparse", "epochs=7", "checkpoint.every=3", "checkpoint.keep=1")
    assert saved(tmp_path / "sparse") == {best_epoch + 1, 7}
    name = f"checkpoints/epoch_{best_epoch + 1:05d}.pt"
    sparse, dense = (load_state(tmp_path / kind / name).learned for kind in ("sparse", "dense"))
    assert digest(sparse) == digest(dense)


def best_in(monkeypatch, best_epoch):
    """Epoch `best_epoch` is the best, whatever it comes to."""
    epoch = run_module._epoch

    def best_there(training, number, batches):
        row, score = epoch(training, number, batches)
        return replace(row, val_accuracy=1.0 if number == best_epoch else 0.1 * row.val_accuracy), score

    monkeypatch.setattr(run_module, "_epoch", best_there)


@pytest.mark.parametrize("best_epoch", [3, 4])
def test_the_best_is_on_the_disk_before_a_state_is_in_the_store(small_run, tmp_path, monkeypatch, best_epoch):
    best_in(monkeypatch, best_epoch)
    put, there = StageStore.put, {}

    def noted(self, name, state, note):
        there[state.epoch] = saved(tmp_path)
        return put(self, name, state, note)

    monkeypatch.setattr(StageStore, "put", noted)
    sharing = Sharing(StageStore(tmp_path / "stages", 10**9, 0), True, 5)
    small_run(tmp_path, "epochs=9", "checkpoint.every=100", sharing=sharing)
    assert best_epoch + 1 in there[5]


def test_a_run_that_ends_by_an_error_leaves_its_best_state(small_run, tmp_path, monkeypatch):
    best_in(monkeypatch, 3)
    original, calls = learner.train_epoch, []

    def fails_in_epoch_6(*arguments):
        calls.append(None)
        if len(calls) == 7:
            raise RuntimeError("no more")
        return original(*arguments)

    monkeypatch.setattr(learner, "train_epoch", fails_in_epoch_6)
    with pytest.raises(RuntimeError, match="no more"):
        small_run(tmp_path, "epochs=9", "checkpoint.every=100")
    assert saved(tmp_path) == {1, 4}


def test_a_signal_after_the_decision_not_to_save_waits_for_the_next_epoch_s_end(small_run, tmp_path, monkeypatch):
    keep = run_module._keep_best
    best_in(monkeypatch, 1)
    monkeypatch.setattr(run_module, "_keep_best", lambda *a: (os.kill(os.getpid(), signal.SIGTERM), keep(*a)))
    with pytest.raises(SystemExit):
        small_run(tmp_path, "epochs=9", "checkpoint.every=100")
    assert saved(tmp_path) == {2, 3}


def test_checkpoints_by_the_clock_are_so_far_apart_that_they_cost_a_fiftieth(tmp_path, monkeypatch):
    now, due = [0.0], []

    def save(*_):
        now[0] += 0.0625

    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Checkpoints, "save", save)
    files = Checkpoints(tmp_path, "auto", 2)
    for epoch in range(2, 18):
        now[0] += 1.0
        if files.is_due(epoch, 99):
            due.append(epoch)
            work = files.saving([], 0, since=now[0])
            assert not files.is_due(epoch, 99), "one is being made"
            work()
    assert due == [2, 6, 10, 14]
    assert files.is_due(16, 16), "the last is always saved"
    assert files.is_due(1, 99), "so is the first"


def test_by_default_the_first_the_best_and_the_last_epoch_are_saved_in_so_short_a_run(small_run, tmp_path):
    summary = small_run(tmp_path, "checkpoint.every=auto", "checkpoint.keep=99")
    assert {1, summary["best_epoch"] + 1, 4} <= saved(tmp_path)


def test_only_whole_epochs_or_auto_are_a_cadence():
    for value in ("0", "1.5", "true", "often", "null", "-1"):
        with pytest.raises(UserError, match=rf"checkpoint\.every={value}: must be .* or more, or auto"):
            compose_config([f"checkpoint.every={value}"])


def killed_after_three(small_run, folder, monkeypatch, *overrides):
    killed(monkeypatch, lambda: small_run(folder, *overrides), Checkpoints, "save", 3, after=True)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(small_run, tmp_path, monkeypatch, damage):
    alone = small_run(tmp_path / "alone")
    killed_after_three(small_run, tmp_path / "killed", monkeypatch)
    path = tmp_path / "killed" / "checkpoints" / "epoch_00003.pt"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        weights = load_state(path).learned["model"]["head.weight"].contiguous().numpy().tobytes()
        content[content.index(weights) + 5] ^= 1
    path.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(DamagedCheckpointError):
        load_state(path)
    resumed = small_run(tmp_path / "killed", resume=True)
    assert_as_uninterrupted(resumed, tmp_path / "killed", alone, tmp_path / "alone")
    assert path.with_suffix(".pt.damaged").exists()


def test_checkpoints_load_with_weights_only(small_run, tmp_path):
    small_run(tmp_path)
    content = torch.load(tmp_path / "checkpoints" / "epoch_00004.pt", weights_only=True)
    assert content["epoch"] == 4
    assert untimed(content["rows"]) == untimed(read_rows(tmp_path))


@pytest.mark.parametrize(
    "override", ["seed=1", "batch_size=32", "optimizer.weight_decay=0.5", "model.channels=[4]", "data.split_seed=3"]
)
def test_a_run_is_not_continued_with_other_settings(small_run, tmp_path, monkeypatch, override):
    killed_after_three(small_run, tmp_path, monkeypatch)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"{override.partition('=')[0]}=.*: the run was begun with"):
        small_run(tmp_path, override, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_longer_training_continues_a_completed_run(small_run, tmp_path):
    small_run(tmp_path / "run", "epochs=4")
    longer = small_run(tmp_path / "run", "epochs=6", resume=True)
    assert_as_uninterrupted(longer, tmp_path / "run", small_run(tmp_path / "alone", "epochs=6"), tmp_path / "alone")


def test_a_changed_milestone_takes_effect_from_a_checkpoint_that_agrees(small_run, tmp_path, monkeypatch):
    killed_after_three(small_run, tmp_path / "run", monkeypatch, "scheduler.milestones=[2]")
    changed = small_run(tmp_path / "run", "scheduler.milestones=[2,3]", resume=True)
    alone = small_run(tmp_path / "alone", "scheduler.milestones=[2,3]")
    assert_as_uninterrupted(changed, tmp_path / "run", alone, tmp_path / "alone")


def test_a_schedule_that_differs_before_every_checkpoint_is_refused_and_nothing_is_lost(small_run, tmp_path):
    small_run(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="the schedule differs from the trained one at epoch 1"):
        small_run(tmp_path, "scheduler.milestones=[1]", "checkpoint.keep=1", resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_completed_run_is_left_as_it_is(small_run, tmp_path):
    summary = small_run(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert small_run(tmp_path, resume=True) == summary
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_fewer_epochs_than_trained_are_refused(small_run, tmp_path):
    small_run(tmp_path)
    with pytest.raises(UserError, match=r"epochs=1: this run has already trained \d epochs"):
        small_run(tmp_path, "epochs=1", resume=True)


def test_a_folder_in_which_another_process_trains_is_refused(small_run, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process is training in this folder"):
        small_run(tmp_path)


def test_a_full_disk_is_named_and_the_run_goes_on_where_it_was(small_run, tmp_path, monkeypatch):
    alone = small_run(tmp_path / "alone")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_space(descriptor):
        raise full

    def third_save_fails(self, states, best_epoch):
        if states[-1].epoch == 3:
            monkeypatch.setattr(os, "fsync", no_space)
        save(self, states, best_epoch)

    save = Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", third_save_fails)
        with pytest.raises(UserError, match=r"epoch_00003\.pt: cannot be written: No space left on device"):
            small_run(tmp_path / "full")
    monkeypatch.undo()
    resumed = small_run(tmp_path / "full", resume=True)
    assert_as_uninterrupted(resumed, tmp_path / "full", alone, tmp_path / "alone")


def test_training_goes_on_while_a_checkpoint_is_written_and_ends_when_all_are(small_run, tmp_path, monkeypatch):
    written, trained = threading.Event(), []
    save, train = checkpoints.save_state, learner.train_epoch

    def slow(path, state, *arguments):
        if state.epoch == 1:
            assert written.wait(60), "the second epoch waits for the first one's checkpoint"
        return save(path, state, *arguments)

    def noted(*arguments):
        trained.append(None)
        if len(trained) == 2:
            written.set()
        return train(*arguments)

    monkeypatch.setattr(checkpoints, "save_state", slow)
    monkeypatch.setattr(learner, "train_epoch", noted)
    small_run(tmp_path, "checkpoint.keep=9")
    assert list(Checkpoints(tmp_path / "checkpoints", 1, 9).files()) == [1, 2, 3, 4]


def test_what_cannot_be_written_behind_ends_the_run_with_its_name(small_run, tmp_path, monkeypatch):
    def full(path, *_):
        raise UserError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(checkpoints, "save_state", full)
    with pytest.raises(UserError, match=r"epoch_00001\.pt: cannot be written: No space left"):
        small_run(tmp_path, "epochs=1", "scheduler=constant")
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("name", ["train.log", "checkpoints", ".hydra"])
def test_nothing_is_written_or_deleted_through_a_link_in_a_given_folder(small_run, tmp_path, name):
    folder, mine = tmp_path / "given", tmp_path / "mine"
    small_run(folder)
    place = folder / name
    if name == "train.log":
        mine.write_text("mine\n")
        place.unlink(missing_ok=True)
    else:
        mine.mkdir()
        for file in ("epoch_00500.pt", "config.yaml", ".x.tmp"):
            (mine / file).write_text("mine\n")
        if place.exists():
            shutil.rmtree(place)
    place.symlink_to(mine)
    with pytest.raises(UserError, match=rf"given/{re.escape(name)}: is a link, or no f"):
        small_run(folder, "epochs=5", resume=True)
    files = [mine] if mine.is_file() else list(mine.iterdir())
    assert [file.read_text() for file in files] == ["mine\n"] * (1 if mine.is_file() else 3)


@pytest.mark.parametrize("name", ["summary.json", "model.pt", "events.out.tfevents.1.x"])
def test_a_folder_in_the_place_of_a_file_is_named(small_run, tmp_path, name):
    small_run(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: is a link, or no file"):
        small_run(tmp_path, "epochs=5", resume=True)


def test_a_pipe_in_a_runs_folder_is_not_waited_for(small_run, tmp_path):
    small_run(tmp_path)
    names = ["request.json", "run.json", "summary.json", "metrics.jsonl", "model.pt"]
    (tmp_path / "checkpoints" / "epoch_00002.pt").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "checkpoints" / "epoch_00002.pt")
    assert 2 not in Checkpoints(tmp_path / "checkpoints", 1, 2).files()
    with pytest.raises(DamagedCheckpointError):
        load_state(tmp_path / "checkpoints" / "epoch_00002.pt")
    for name in names:
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        assert changed(tmp_path, {name: ""}) == [name]
        assert read_object(tmp_path / name) == {}
    assert holds_run(tmp_path)
    assert not any(run.counts for run in load_runs([tmp_path]).runs)


def test_a_file_beside_the_checkpoints_that_is_none_is_left_alone(small_run, tmp_path):
    small_run(tmp_path)
    for name in ("epoch_abc.pt", "epoch_-1.pt", "epoch_.pt", "epoch_\N{ARABIC-INDIC DIGIT THREE}0000.pt"):
        (tmp_path / "checkpoints" / name).touch()
    small_run(tmp_path, "epochs=5", resume=True)
    assert max(Checkpoints(tmp_path / "checkpoints", 1, 2).files()) == 5
    assert (tmp_path / "checkpoints" / "epoch_abc.pt").exists()


@pytest.mark.parametrize(
    "values",
    [{"files": ["a"]}, {"files": {"\0": "a"}}, {"seconds": None}, {"final_val_accuracy": "x"}, {"test_accuracy": None}],
)
def test_a_summary_of_other_kinds_of_values_is_no_result(small_run, tmp_path, values):
    weights = small_run(tmp_path)["weights_sha256"]
    write_sealed(tmp_path / "summary.json", read_sealed(tmp_path / "summary.json") | values)
    assert small_run(tmp_path, resume=True)["weights_sha256"] == weights
    assert json.loads((tmp_path / "summary.json").read_text())["seconds"] > 0


def test_a_state_that_does_not_fit_the_network_is_named(small_run, tmp_path):
    small_run(tmp_path)
    path = max((tmp_path / "checkpoints").glob("epoch_*.pt"))
    state = load_state(path)
    state.learned["model"]["head.weight"] = torch.zeros(1)
    save_state(path, state)
    with pytest.raises(UserError, match=r"the state after epoch \d does not fit .*head\.weight.*checkpoints or"):
        small_run(tmp_path, "epochs=5", resume=True)


def test_a_folder_that_is_taken_away_as_the_run_enters_it_is_told_of(small_run, tmp_path, monkeypatch):
    def gone(*_):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / ".hydra"))

    monkeypatch.setattr("harness.runs.folder.remove_leftovers", gone)
    with pytest.raises(UserError, match=r"\.hydra: cannot be read or written: No such file or directory"):
        small_run(tmp_path)
