"""Runs that share epochs through the stage store, and what may not be shared."""

import itertools
import json
import logging
import multiprocessing.connection
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.processes import forking
from support.small_runs import SMALL, compose_once, read_rows, train, train_command, undrawn, untimed

from harness import files
from harness.app.compose import compose_config
from harness.record import holds_run
from harness.runs.request import Request
from harness.runs.run import run
from harness.stages.identity import settings as settings_of
from harness.stages.store import StageStore
from harness.stages.tree import PlannedRun, StageTree
from harness.stages.walk import Sharing, _Wait
from harness.training import learner
from harness.training.optim import preview_optimizer
from harness.training.schedule import make_plan

EPOCHS = 6
# Of the harness's code in two runs, roughly: see `work`.
EVENTS = 60_000


def made_of(folder):
    """Rows without what a clock, or sharing, decides; and the final weights."""
    rows = [{k: v for k, v in row.items() if k != "reused"} for row in untimed(read_rows(folder))]
    return rows, json.loads((folder / "summary.json").read_text())["weights_sha256"]


def shared_run(store, folder, *overrides, takes=True, save_at=(), resume=False, every=100):
    """A run of SMALL with further overrides that uses the store; returns its summary."""
    keys = {override.partition("=")[0] for override in overrides}
    config, name = compose_once(*(o for o in SMALL if o.partition("=")[0] not in keys), *overrides)
    return run(Request(config, name, folder, resume, sharing=Sharing(store, takes, every, save_at))).content()


@pytest.fixture
def store(tmp_path):
    return StageStore(tmp_path / "stages", 10**9, 0)


schedules = st.one_of(
    st.fixed_dictionaries({"epochs": st.integers(1, EPOCHS), "milestones": st.just([])}),
    st.fixed_dictionaries(
        {
            "epochs": st.integers(2, EPOCHS),
            "milestones": st.lists(st.integers(1, EPOCHS), min_size=1, max_size=3, unique=True).map(sorted),
        }
    ),
)


def composed(schedule):
    chosen = (
        ["scheduler=multistep", f"scheduler.milestones={schedule['milestones']}"]
        if schedule["milestones"]
        else ["scheduler=constant"]
    )
    own = [o for o in SMALL if not o.startswith(("scheduler", "epochs"))]
    return compose_once(*own, *chosen, f"epochs={schedule['epochs']}", "model.dropout=0.2")


def work(folder, jobs, moment):
    """A process of a sweep: jobs one after the other, each continued where an earlier process was killed.

    It is killed at its event number `moment`: a call of the harness's code, one from there into C, or a return.
    """
    events = itertools.count(1)

    def count(frame, *_):
        if frame.f_code.co_filename.startswith(str(files.PACKAGE)) and next(events) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    logging.disable(logging.CRITICAL)
    sys.setprofile(count)
    for name, config, schedule, save_at in jobs:
        place = folder / name
        sharing = Sharing(StageStore(folder / "stages", 10**9, 0), True, 4, save_at)
        with undrawn():
            run(Request(config, schedule, place, holds_run(place), sharing=sharing))
    sys.setprofile(None)


# A failure is shown as it was found: to look for a smaller one takes minutes.
@settings(max_examples=6, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))
@given(drawn=st.lists(schedules, min_size=3, max_size=6), chance=st.randoms(use_true_random=False))
def test_runs_of_a_tree_end_as_each_would_have_alone_whatever_is_killed(tmp_path_factory, drawn, chance):
    folder = tmp_path_factory.mktemp("tree")
    jobs = []
    for number, schedule in enumerate(drawn):
        config, name = composed(schedule)
        run(Request(config, name, folder / f"alone_{number}", resume=False))
        plan = make_plan(config.scheduler, preview_optimizer(config.optimizer), config.epochs)
        jobs.append((f"run_{number}", config, name, PlannedRun(name, settings_of(config), plan)))
    tree = StageTree(tuple(job[3] for job in jobs))
    jobs = [(*job[:3], tree.save_at(number)) for number, job in enumerate(jobs)]
    chance.shuffle(jobs)
    finish_despite_kills(folder, [jobs[::2], jobs[1::2]], chance)
    for number in range(len(drawn)):
        assert made_of(folder / f"run_{number}") == made_of(folder / f"alone_{number}")


def finish_despite_kills(folder, shares, chance, kills=4):
    """Two processes side by side; some are killed at random moments, and started again until their jobs are done."""
    running = {}

    def start(jobs, moment):
        process = forking().Process(target=work, args=(folder, jobs, moment))
        process.start()
        running[process.sentinel] = process, jobs

    for jobs in shares:
        start(jobs, chance.randrange(EVENTS) if kills else None)
    while running:
        for sentinel in multiprocessing.connection.wait(list(running)):
            process, jobs = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                assert process.exitcode == -signal.SIGKILL
                kills -= 1
                start(jobs, chance.randrange(EVENTS) if kills > 0 else None)


def test_a_tree_without_kills_trains_no_epoch_twice(tmp_path):
    drawn = [{"epochs": 6, "milestones": m} for m in ([], [2], [2, 4], [3], [2, 4])] + [{"epochs": 3, "milestones": []}]
    jobs = []
    for number, schedule in enumerate(drawn):
        config, name = composed(schedule)
        plan = make_plan(config.scheduler, preview_optimizer(config.optimizer), config.epochs)
        jobs.append((f"run_{number}", config, name, PlannedRun(name, settings_of(config), plan)))
    tree = StageTree(tuple(job[3] for job in jobs))
    jobs = [(*job[:3], tree.save_at(number)) for number, job in enumerate(jobs)]
    finish_despite_kills(tmp_path, [jobs[::2], jobs[1::2]], random.Random(0), kills=0)
    summaries = [json.loads((tmp_path / f"run_{n}" / "summary.json").read_text()) for n in range(len(drawn))]
    # constant 6; [2] parts at 2: 4 more; [2, 4] parts from it at 4: 2 more; [3] parts from constant at 3: 3 more.
    assert tree.epochs_shared == 6 + 4 + 2 + 3
    assert sum(summary["epochs_trained"] for summary in summaries) == tree.epochs_shared
    assert sum(summary["epochs_trained"] + summary["epochs_reused"] for summary in summaries) == tree.epochs_alone


@pytest.mark.parametrize(
    "other",
    [
        "seed=1", "batch_size=32", "data.crop_padding=2", "data.flip=true", "data.split_seed=1", "data.train_size=63",
        "threads=2", "precision=bf16", "model.channels=[9]", "model.dropout=0.1", "optimizer.lr=0.004",
        "optimizer.eps=1e-7", "deterministic=false",
    ],
)  # fmt: skip
def test_nothing_is_shared_when_anything_that_makes_the_bits_differs(store, tmp_path, other):
    shared_run(store, tmp_path / "first", "epochs=2")
    assert shared_run(store, tmp_path / "other", "epochs=2", other)["epochs_reused"] == 0


def test_nothing_is_shared_across_a_line_of_training_code(store, tmp_path, monkeypatch):
    shared_run(store, tmp_path / "first", "epochs=2")
    source = tmp_path / "harness"
    shutil.copytree(files.PACKAGE, source)
    (source / "training" / "loop.py").write_text((source / "training" / "loop.py").read_text() + "\n# one more line\n")
    monkeypatch.setattr(files, "PACKAGE", source)
    files.code_digest.cache_clear()
    changed = shared_run(store, tmp_path / "changed", "epochs=2")
    monkeypatch.undo()
    files.code_digest.cache_clear()
    assert changed["epochs_reused"] == 0
    assert shared_run(store, tmp_path / "again", "epochs=2")["epochs_reused"] == 2


def test_nothing_is_shared_when_the_images_differ(store, tmp_path):
    from PIL import Image

    for part, count in (("train", 12), ("test", 4)):
        for label in ("a", "b"):
            place = tmp_path / "images" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), 10 * number + (label == "b")).save(place / f"{number}.png")
    own = [o for o in SMALL if not o.startswith(("data", "scheduler"))]
    folder = [
        "data=image_folder",
        f"data.root={tmp_path / 'images'}",
        "data.image_size=8",
        "data.channels=1",
        "epochs=2",
    ]

    def reused(name):
        config, schedule = compose_config([*(o for o in own if not o.startswith("epochs")), *folder])
        request = Request(config, schedule, tmp_path / name, False, sharing=Sharing(store, True, 100))
        return run(request).epochs_reused

    assert reused("first") == 0
    assert reused("same") == 2
    Image.new("L", (8, 8), 1).save(tmp_path / "images" / "train" / "a" / "0.png")
    assert reused("changed") == 0


def test_reused_epochs_are_marked_and_the_files_are_whole(store, tmp_path, small_run):
    shared_run(store, tmp_path / "first", "scheduler.milestones=[2]", save_at=(3,))
    summary = shared_run(store, tmp_path / "second", "scheduler.milestones=[2,3]")
    alone = small_run(tmp_path / "alone", "scheduler.milestones=[2,3]")
    assert (summary["epochs_trained"], summary["epochs_reused"]) == (1, 3)
    assert [row["reused"] for row in read_rows(tmp_path / "second")] == [True, True, True, False]
    assert made_of(tmp_path / "second") == made_of(tmp_path / "alone")
    assert summary["test_loss"] == alone["test_loss"]


def test_longer_training_goes_on_where_the_shorter_ended(store, tmp_path):
    shared_run(store, tmp_path / "short", "epochs=4")
    longer = shared_run(store, tmp_path / "long", "epochs=6")
    assert (longer["epochs_trained"], longer["epochs_reused"]) == (2, 4)


def test_a_run_that_takes_nothing_still_leaves_states_for_others(store, tmp_path):
    for name in ("first", "second"):
        assert shared_run(store, tmp_path / name, takes=False)["epochs_reused"] == 0
    assert shared_run(store, tmp_path / "third")["epochs_reused"] == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "another"])
def test_a_damaged_entry_is_set_aside_and_its_epochs_trained_again(store, tmp_path, damage):
    shared_run(store, tmp_path / "first", save_at=(2,))
    paths = sorted(store.folder.glob("*/*.pt"))
    for path, other in zip(paths, [path.read_bytes() for path in reversed(paths)], strict=True):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= damage == "flip"
        path.write_bytes({"cut": content[:-20], "empty": b"", "flip": content, "another": other}[damage])
    again = shared_run(store, tmp_path / "again", save_at=(2,))
    assert again["epochs_reused"] == 0
    assert made_of(tmp_path / "again") == made_of(tmp_path / "first")
    assert len(list(store.folder.glob("*/*.damaged"))) == len(paths) == 2
    assert shared_run(store, tmp_path / "third")["epochs_reused"] == 4


def test_changed_milestones_of_a_half_trained_run_go_on_from_the_last_epoch_in_common(
    store, tmp_path, monkeypatch, small_run, caplog
):
    settings = ("epochs=12", "scheduler.milestones=[3,9]")
    original = learner.train_epoch

    def until_eight(*args):
        until_eight.epochs += 1
        if until_eight.epochs > 8:
            raise KeyboardInterrupt
        return original(*args)

    until_eight.epochs = 0
    monkeypatch.setattr(learner, "train_epoch", until_eight)
    with pytest.raises(KeyboardInterrupt):
        shared_run(store, tmp_path / "run", *settings, takes=False, every=3)
    monkeypatch.undo()
    with caplog.at_level(logging.INFO):
        changed = shared_run(store, tmp_path / "run", "epochs=12", "scheduler.milestones=[3,6]", resume=True, every=3)
    message = "milestones changed from [3, 9] to [3, 6]: continuing from epoch 6, 2 epochs retrained"
    assert message in caplog.messages
    small_run(tmp_path / "alone", "epochs=12", "scheduler.milestones=[3,6]")
    assert changed["status"] == "completed"
    assert made_of(tmp_path / "run") == made_of(tmp_path / "alone")


QUICK = [*(o for o in SMALL if not o.startswith("scheduler.")), "epochs=6"]


def trained(folder):
    return sorted(
        (json.loads(path.read_text())["epochs_trained"], path.parent.name) for path in folder.glob("*/summary.json")
    )


def test_a_killed_sweep_started_again_with_the_same_command_trains_only_what_is_missing(tmp_path):
    command = ["-m", *QUICK[:-1], "epochs=30", "scheduler=constant,step", "seed=0,1"]
    process = subprocess.Popen(train_command(*command), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("runs/*_sweep*/1_*/metrics.jsonl"))) < 1:
        assert process.poll() is None, "the sweep ended before its second run began"
    process.kill()
    process.communicate()
    again = train(tmp_path, *command)
    assert again.returncode == 0, again.stderr
    (sweep,) = tmp_path.glob("runs/*_sweep*")
    assert f"continuing the unfinished sweep in {sweep.relative_to(tmp_path)}" in again.stdout
    assert "was already completed" in again.stdout
    assert sorted(path.name for path in sweep.glob("*_seed=*")) == [
        "0_constant_seed=0", "1_constant_seed=1", "2_step_seed=0", "3_step_seed=1",
    ]  # fmt: skip
    assert all(json.loads(p.read_text())["status"] == "completed" for p in sweep.glob("*/summary.json"))
    third = train(tmp_path, *command)
    assert third.returncode == 0, third.stderr
    newest = max(tmp_path.glob("runs/*_sweep*"), key=lambda path: path.stat().st_mtime_ns)
    assert newest != sweep
    assert [epochs for epochs, _ in trained(newest)] == [0, 0, 0, 0]


def test_another_sweep_in_the_same_folder_is_refused_and_the_first_one_kept(tmp_path):
    first = train(tmp_path, "-m", *QUICK, "seed=0,1", "hydra.sweep.dir=sweep")
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").rglob("*") if path.is_file()}
    second = train(tmp_path, "-m", *QUICK, "seed=2,3", "hydra.sweep.dir=sweep")
    assert second.returncode == 2
    assert "hydra.sweep.dir=sweep: holds the sweep of another command" in second.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "sweep").rglob("*") if path.is_file()} == before


def test_plan_only_draws_the_tree_and_trains_nothing(tmp_path):
    shown = train(tmp_path, "-m", "scheduler=constant,step,multistep", "seed=0,1", "+plan_only=true")
    assert shown.returncode == 0, shown.stderr
    assert "6 runs: 600 epochs alone, 420 to train, 1.43 times fewer" in shown.stdout
    assert "epochs 30 to 59, lr 0.0003: step, multistep" in shown.stdout
    assert not (tmp_path / "runs").exists()


def test_a_run_that_waits_says_for_whom_and_for_how_long_there_was_no_progress(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = iter([0, 0, 1, 60, 61, 120, 720])
    monkeypatch.setattr("harness.stages.walk.time.monotonic", lambda: next(now))
    wait, about = _Wait(0, 30), {"process": 7, "host": "box", "since": "noon", "epoch": 0}
    further = {**about, "epoch": 12}
    assert [wait.look(holder) for holder in (about, about, about, further, further, further)] == [0, 1, 60, 0, 59, 659]
    who, still = "epochs 0 to 29 are being trained by process 7 on box, which began at noon", "still waiting for it"
    hangs = "stop it if it hangs, or set stages.overtake_after=MINUTES to train them here"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"{who} and has reached epoch 0: waiting for it"),
        ("INFO", f"{who} and has reached epoch 0: {still}; no progress for 1 minute"),
        ("INFO", f"{who} and has reached epoch 12: {still}"),
        ("WARNING", f"{who} and has reached epoch 12: {still}; no progress for 10 minutes; {hangs}"),
    ]


@pytest.mark.parametrize("holder", [{}, {"process": None}, {"epoch": [1]}, {"host": {}, "since": 5}])
def test_a_holder_of_whom_nothing_is_known_is_another_process(holder, caplog):
    caplog.set_level(logging.INFO)
    _Wait(3, 4).look(holder)
    assert caplog.messages[0].startswith("epoch 3 is being trained by ")


def test_who_makes_no_progress_is_overtaken_by_a_setting_and_the_bits_are_the_same(store, tmp_path, caplog):
    shared_run(StageStore(tmp_path / "other", 10**9, 0), tmp_path / "alone")
    config, name = compose_once(*SMALL)
    shared_run(store, tmp_path / "first")
    (entry,) = store.entries()
    held = store.claim(entry.name, 0)
    store.evict(0)
    sharing = Sharing(store, True, 100, overtake_after=1e-9)
    run(Request(config, name, tmp_path / "overtakes", False, sharing=sharing))
    held.release()
    assert "stages.overtake_after=1e-09: epochs 0 to 3 are trained here, too" in caplog.text
    assert made_of(tmp_path / "overtakes") == made_of(tmp_path / "alone")
    assert store.has(entry.name)


def test_whoever_holds_a_claim_gives_a_sign_of_life_after_each_epoch(store, tmp_path, monkeypatch):
    seen = []
    original = learner.train_epoch

    def looking(*args):
        (about,) = (json.loads(path.read_text()) for path in store.folder.glob("claims/*.json"))
        seen.append((about["process"], about["epoch"]))
        return original(*args)

    monkeypatch.setattr(learner, "train_epoch", looking)
    shared_run(store, tmp_path / "run")
    assert seen == [(os.getpid(), epoch) for epoch in range(4)]
    assert list(store.folder.glob("claims/*.json")) == []
