"""The stage store by itself, and the tree that a sweep is laid into."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.processes import forking, run_script
from support.small_runs import ROOT

from harness.config import StagesConfig
from harness.errors import UserError
from harness.record import EpochRow
from harness.stages import keys
from harness.stages.store import StageStore, open_store, verify
from harness.stages.tree import PlannedRun, StageTree
from harness.training.plan import LrPlan
from harness.training.state import TrainState, load_state, save_state

IDENTITY = {"seed": 0, "model.channels": [8]}


def state(rates, identity=IDENTITY, size=1000):
    """A state after as many epochs as there are rates, and its name."""
    rows = tuple(EpochRow(e, {"default": rate}, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, False) for e, rate in enumerate(rates))
    learned = {"model": {"weight": torch.arange(size).float()}, "optimizer": {}, "scaler": {}}
    made = TrainState(len(rows), learned, rows, identity)
    return keys.names(identity, [row.lr for row in rows])[-1], made


def put(store, rates, used=None, **options):
    name, made = state(rates, **options)
    store.put(name, made, {})
    if used is not None and store.folder is not None:
        os.utime(store.folder / f"{name}.pt", (used, used))
    return name


def test_eviction_takes_what_was_used_longest_ago_but_nothing_that_a_running_sweep_needs(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    oldest, needed, older, newest = (
        put(store, [rate], used=when) for rate, when in ((1, 10), (2, 20), (3, 30), (4, 40))
    )
    size = store.entries()[0].size
    other = StageStore(tmp_path, 10**9, 0)
    with store.sweep([needed.partition("/")[2]]):
        assert [entry.name for entry in other.evict(2 * size)] == [oldest, older]
        assert [entry.name for entry in other.evict(0)] == [newest]
        assert other.has(needed)
    assert [entry.name for entry in other.evict(0)] == [needed]


def test_neither_a_state_nor_a_sign_of_life_waits_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store = StageStore(tmp_path, 10**9, 0)
    put(store, [1])
    held = store.claim("key", 0)
    held.reached(1)
    held.release()
    assert synced == []


def test_what_is_read_counts_as_used(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    first, second = put(store, [1], used=10), put(store, [2], used=20)
    assert store.get(first) is not None
    assert [entry.name for entry in store.evict(store.entries()[0].size)] == [second]


def test_the_limit_is_kept_while_states_are_left(tmp_path):
    size = 6000
    store = StageStore(tmp_path, 5 * size, 0)
    for rate in range(20):
        put(store, [rate])
        assert sum(entry.size for entry in store.entries()) <= 5 * size


def hold_a_sweep(folder, entered):
    with StageStore(folder, 10**9, 0).sweep(["plan"]):
        entered.set()
        multiprocessing.Event().wait()


@pytest.mark.slow
def test_a_killed_sweep_needs_nothing_any_more(tmp_path):
    entered = forking().Event()
    process = forking().Process(target=hold_a_sweep, args=(tmp_path, entered))
    process.start()
    entered.wait()
    store = StageStore(tmp_path, 10**9, 0)
    assert store.pinned() == {"plan"}
    process.kill()
    process.join()
    assert store.pinned() == set()
    assert list((tmp_path / "sweeps").glob("*.json")) == []


def test_a_sweep_is_over_where_nobody_holds_its_lock_and_leaves_nothing(tmp_path):
    store, sweeps = StageStore(tmp_path / "new" / "stages", 10**9, 0), tmp_path / "new" / "stages" / "sweeps"
    with store.sweep(["live"]):
        (sweeps / "dead.json").write_text('["dead"]')
        (sweeps / "dead.lock").touch()
        assert store.pinned() == {"live"}
        assert len(list(sweeps.iterdir())) == 2
    assert list(sweeps.iterdir()) == []


def test_a_sweep_without_a_folder_is_entered_once_and_needs_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = StageStore(None, 10**9, 10**6)
    with store.sweep(["plan"]):
        held = put(store, [1])
        assert (store.has(held), store.pinned(), store.evict(0)) == (True, set(), [])
    assert list(tmp_path.iterdir()) == []


def test_memory_alone_serves_a_process_and_gives_copies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = StageStore(None, 10**9, 10**6)
    key = put(store, [1])
    store.get(key).learned["model"]["weight"].zero_()
    assert store.get(key).learned["model"]["weight"][-1] == 999
    assert list(tmp_path.iterdir()) == []


def test_memory_is_limited(tmp_path):
    store = StageStore(None, 10**9, 3 * 4000)
    found = [put(store, [rate]) for rate in range(5)]
    assert [store.has(key) for key in found] == [False, False, True, True, True]


def test_an_entry_evicted_by_another_process_while_it_is_written_does_no_harm(tmp_path, monkeypatch):
    store = StageStore(tmp_path, 10**9, 0)
    other = StageStore(tmp_path, 10**9, 0)

    def written(path, state, durable):
        size = save_state(path, state, durable)
        other.evict(0)
        return size

    monkeypatch.setattr("harness.stages.store.save_state", written)
    key = put(store, [1])
    assert not store.has(key)
    assert store.get(key) is None


def test_an_entry_evicted_by_another_process_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch, caplog):
    store = StageStore(tmp_path, 10**9, 0)
    name = put(store, [1])

    def read(path):
        StageStore(tmp_path, 10**9, 0).evict(0)
        return load_state(path)

    monkeypatch.setattr("harness.stages.store.load_state", read)
    assert store.get(name) is None
    assert (caplog.text, list(tmp_path.rglob("*.damaged"))) == ("", [])


def test_code_in_an_entry_s_file_is_set_aside_and_does_not_run(tmp_path, caplog):
    class MakesAFolder:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    store = StageStore(tmp_path / "stages", 10**9, 0)
    name = put(store, [1])
    path = store.folder / f"{name}.pt"
    torch.save({**torch.load(path, weights_only=True), "model": MakesAFolder()}, path)
    assert (store.get(name), store.has(name), path.with_suffix(".damaged").exists()) == (None, False, True)
    assert not (tmp_path / "made").exists()


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    for name in ("claims", "sweeps"):
        (tmp_path / name).write_text("no folder")
    store = StageStore(tmp_path, 10**9, 0)
    with pytest.raises(UserError, match=r"stages.dir: .*claims cannot be written"):
        store.claim("key", 0)
    with pytest.raises(UserError, match=r"stages.dir: .*sweeps cannot be written"), store.sweep(["plan"]):
        pass


def test_a_lock_that_cannot_be_opened_is_an_error_of_the_store(tmp_path):
    (tmp_path / "claims" / "key.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"stages.dir: .*claims cannot be written"):
        StageStore(tmp_path, 10**9, 0).claim("key", 0)


def test_a_claim_is_held_by_one_and_free_once_it_is_released(tmp_path):
    store = StageStore(tmp_path / "new" / "stages", 10**9, 0)
    held = store.claim("key", 0)
    assert store.claim("key", 0) is None
    held.release()
    assert store.claim("key", 0) is not None


def test_verify_finds_the_damaged_ones(tmp_path):
    store = StageStore(tmp_path, 10**9, 10**9)
    good, bad = put(store, [1]), put(store, [2])
    (tmp_path / f"{bad}.pt").write_bytes(b"PK")
    assert [entry.name for entry in verify(store.entries(), store)] == [bad]
    assert [entry.name for entry in store.entries()] == [good]
    assert store.remove_debris() == [tmp_path / f"{bad}.damaged"]


rates = st.floats(1e-6, 1.0)


@given(st.lists(rates, min_size=1, max_size=5), st.lists(rates, min_size=1, max_size=5))
def test_keys_agree_just_as_long_as_the_rates_do(first, second):
    chains = [keys.chain(keys.root(IDENTITY), [{"default": rate} for rate in plan]) for plan in (first, second)]
    for epoch in range(min(len(first), len(second)) + 1):
        assert (chains[0][epoch] == chains[1][epoch]) == (first[:epoch] == second[:epoch])


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_tree_trains_each_prefix_once_and_saves_where_runs_part_or_end(plans):
    runs = [PlannedRun("", IDENTITY, LrPlan(("default",), tuple((float(r),) for r in plan))) for plan in plans]
    tree = StageTree(tuple(runs))
    prefixes = {tuple(plan[: epoch + 1]) for plan in plans for epoch in range(len(plan))}
    assert tree.epochs_alone == sum(map(len, plans))
    assert tree.epochs_shared == len(prefixes)
    for position, plan in enumerate(plans):
        others = plans[:position] + plans[position + 1 :]
        expected = {
            epoch
            for epoch in range(1, len(plan) + 1)
            for other in others
            if other[:epoch] == plan[:epoch] and (len(other) == epoch or other[: epoch + 1] != plan[: epoch + 1])
        }
        assert set(tree.save_at(position)) == expected


@pytest.mark.parametrize("other", [{"seed": 1, "model.channels": [8]}, {"seed": 0, "model.channels": [9]}])
def test_another_identity_has_other_keys(other):
    assert keys.root(IDENTITY) != keys.root(other)
    assert keys.root(IDENTITY) == keys.root(dict(reversed(IDENTITY.items())))


def test_a_sweep_needs_its_states_under_all_circumstances_and_names_tell_these_apart(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    here, there = (put(store, [1], identity={**IDENTITY, "versions.torch": version}) for version in ("2.14", "2.15"))
    assert here != there
    with store.sweep([keys.chain(keys.root(IDENTITY), [{"default": 1}])[-1]]):
        assert store.evict(0) == []
    assert {entry.name for entry in store.evict(0)} == {here, there}


def test_what_earlier_versions_put_into_one_folder_is_counted_and_evicted(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    name = put(store, [1], used=10)
    old = tmp_path / f"{keys.chain(keys.root(IDENTITY), [{'default': 1}])[-1]}.pt"
    (tmp_path / f"{name}.pt").rename(old)
    newer = put(store, [2], used=20)
    assert [entry.path for entry in store.entries()] == [old, tmp_path / f"{newer}.pt"]
    assert verify(store.entries(), store) == []
    os.utime(old, (10, 10))
    assert [entry.path for entry in store.evict(store.entries()[1].size)] == [old]


def test_runs_on_two_devices_are_two_branches_from_the_start():
    plan = LrPlan(("default",), ((1.0,), (1.0,)))
    runs = tuple(PlannedRun(device, IDENTITY, plan, {"device": device}) for device in ("cpu", "cuda"))
    tree = StageTree(runs)
    assert (tree.epochs_alone, tree.epochs_shared) == (4, 4)
    assert tree.save_at(0) == ()


def test_ls_shows_notes_as_they_are_and_survives_damaged_ones(tmp_path):
    store = StageStore(tmp_path / "stages", 10**9, 0)
    names = [put(store, [rate], used=used) for rate, used in ((1, 0), (2, 2**33), (3, 30), (4, 40), (5, 50))]
    notes = [
        '{"epoch": 1, "lr": {"default": 0.1}, "scheduler": "[/red]\\u001b[2J[bold]", "seed": 7}',
        '{"epoch": [1, {}], "lr": {"default": "fast"}, "scheduler": null}',
        "[1]",
        "",
        '{"lr": {}}',
    ]
    for name, note in zip(names, notes, strict=True):
        (store.folder / f"{name}.json").write_text(note)
    done = run_script(ROOT / "scripts" / "stages.py", "ls", f"stages.dir={store.folder}", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[/red]\N{REPLACEMENT CHARACTER}[2J[bold]" in done.stdout
    assert "5 states" in done.stdout


def test_a_script_whose_reader_has_gone_ends_without_a_word():
    code = "from harness.errors import run_script; {}; run_script(lambda: say('much ' * 20_000))"
    for say in ("say = print", "from harness.views.console import say"):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-c", code.format(say)]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")


def test_a_well_formed_file_that_is_no_state_of_a_run_is_set_aside(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    name = put(store, [1])
    rows = state([1])[1].rows
    for identity in ({"x": float("nan")}, {}):
        made = TrainState(1, {"model": {}}, (*rows,), identity)
        save_state(tmp_path / f"{name}.pt", made)
        assert store.get(name) is None
        assert not store.has(name)


def test_pins_that_are_damaged_keep_nothing_and_stop_nothing(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    put(store, [1])
    for damaged in ("", "5", "[[]]", "null"):
        with store.sweep(["plan"]):
            (pins,) = (tmp_path / "sweeps").glob("*.json")
            pins.write_text(damaged)
            assert store.pinned() == set()


def test_a_holder_tells_who_it_is_and_how_far_it_came(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    held = store.claim("a/b", 0)
    held.reached(3)
    assert store.holder("a/b").keys() == {"process", "host", "since", "epoch"}
    assert (store.holder("a/b")["process"], store.holder("a/b")["epoch"]) == (os.getpid(), 3)
    held.release()
    assert store.holder("a/b") == {}


def test_states_have_the_names_that_earlier_versions_gave_them():
    """Else nothing in people's stores would be found again."""
    identity = {**IDENTITY, "versions.torch": "2.14", "data.fingerprint": "f"}
    name, earlier = keys.names_of(identity, [{"b": 0.5, "a": 1}, {"a": 0.1, "b": 0.25}])
    assert (name, earlier) == (
        "1f644063b8f32543ab82d59b704dbeee/343bb6823da1acaf6f98f3b81bdaf856a3805d8e10cce1d49337bdebd94981e4",
        "60689518e41dbfe29dc60e01373050d053364de2f84480d44a5652c63935bb08",
    )
    assert keys.names(identity, []) == [
        "1f644063b8f32543ab82d59b704dbeee/74ef715660f600deb8947b9b3b921de3b84115071cda1605e37fb8ad0651d6b1"
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_state_is_named_after_what_json_lacks(value):
    with pytest.raises(ValueError, match="JSON"):
        keys.root({"x": value})


def test_debris_goes_after_a_day_and_nothing_else(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    name, held = put(store, [1]), store.claim("held", 0)
    held.reached(1)
    with store.sweep(["plan"]):
        made = {"claims/held.lock", "claims/held.json", f"{name}.json", f"{name}.pt"}
        made |= {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "sweeps").iterdir()}
        for age in ("old", "new"):
            for file in (f"{age}.tmp", f"x/{age}.tmp", f"claims/{age}.lock", f"claims/{age}.json", f"x/{age}.json"):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).touch()
                made.add(file)
        (tmp_path / "x" / "new.damaged").touch()
        for file in made:
            when = time.time() - (23.8 if "new" in file else 24.2) * 60 * 60
            os.utime(tmp_path / file, (when, when))
        gone = store.remove_debris()
        debris = {file for file in made if "old" in file} | {"x/new.damaged"}
        assert {path.relative_to(tmp_path).as_posix() for path in gone} == debris
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
        assert left == made - debris
    assert StageStore(None, 10**9, 0).remove_debris() == []


def test_debris_that_cannot_be_looked_at_is_left_alone(tmp_path):
    (tmp_path / "lost.tmp").symlink_to(tmp_path / "nowhere")
    assert StageStore(tmp_path, 10**9, 0).remove_debris() == []
    assert (tmp_path / "lost.tmp").is_symlink()


def test_an_entry_tells_its_size_and_what_was_noted(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    name, made = state([1])
    store.put(name, made, {"seed": 7})
    (entry,) = store.entries()
    assert (entry.name, entry.key, entry.size) == (name, name.partition("/")[2], entry.path.stat().st_size)
    assert entry.note() == {"seed": 7, "epoch": 1}


def test_nothing_goes_before_the_limit_is_passed_and_then_a_tenth_more(tmp_path):
    first = put(StageStore(tmp_path, 10**9, 0), [0], used=0)
    size = (tmp_path / f"{first}.pt").stat().st_size
    store = StageStore(tmp_path, 10 * size, 0)
    names = [first, *(put(store, [rate], used=rate) for rate in range(1, 10))]
    assert [entry.name for entry in store.entries()] == names
    names.append(put(store, [10], used=10))
    assert [entry.name for entry in store.entries()] == names[2:]
    put(store, [11], used=11)
    assert len(store.entries()) == 10


def test_a_limit_that_a_running_sweep_passes_is_told_of(tmp_path, caplog):
    store = StageStore(tmp_path, 1000, 0)
    names = [state([rate])[0].partition("/")[2] for rate in (1, 2)]
    with store.sweep(names):
        assert [store.has(put(store, [rate])) for rate in (1, 2)] == [True, True]
    assert "stages.limit_gb=1e-06: the running sweep needs 0.00 GB" in caplog.text
    caplog.clear()
    put(store, [3])
    assert (store.entries(), caplog.text) == ([], "")


def test_a_limit_that_a_running_sweep_just_keeps_is_not_told_of(tmp_path, caplog):
    needed = [put(StageStore(tmp_path, 10**9, 0), [rate]) for rate in (1, 2)]
    store = StageStore(tmp_path, sum(entry.size for entry in StageStore(tmp_path, 0, 0).entries()), 0)
    with store.sweep([name.partition("/")[2] for name in needed]):
        put(store, [3])
        assert {entry.name for entry in store.entries()} == set(needed)
    assert caplog.text == ""


def test_a_state_under_another_s_name_is_set_aside_by_name(tmp_path, caplog):
    store = StageStore(tmp_path, 10**9, 0)
    one, other = put(store, [1]), put(store, [2])
    (tmp_path / f"{one}.pt").replace(tmp_path / f"{other}.pt")
    assert (store.has(one), store.get(other), store.has(other)) == (False, None, False)
    assert f"{other}.pt: holds another state than its name says; it is set aside" in caplog.text
    assert (tmp_path / f"{other}.damaged").exists()


def test_memory_keeps_what_was_read_last_counts_each_state_once_and_none_that_is_too_large():
    store = StageStore(None, 10**9, 2 * 4000)
    one, two = put(store, [1]), put(store, [2])
    assert put(store, [1]) == one
    assert store.get(one) is not None
    three = put(store, [3])
    assert [store.has(name) for name in (one, two, three)] == [True, False, True]
    assert store.get(two) is None
    whole, too_large = put(store, [4], size=2000), put(store, [5], size=2001)
    assert [store.has(name) for name in (one, three, whole, too_large)] == [False, False, True, False]


def test_only_tensors_count_against_the_memory():
    name, made = state([1])
    made.learned["scaler"] = {"scale": 2.0, "growth": None}
    for limit in (4000, 3999):
        store = StageStore(None, 10**9, limit)
        store.put(name, made, {})
        assert store.has(name) == (limit == 4000)


def test_what_was_read_once_is_in_memory(tmp_path):
    name = put(StageStore(tmp_path, 10**9, 0), [1])
    store = StageStore(tmp_path, 10**9, 10**6)
    assert store.get(name) is not None
    (tmp_path / f"{name}.pt").unlink()
    assert store.get(name) is not None


def test_a_name_that_no_file_can_have_is_not_there(tmp_path):
    assert not StageStore(tmp_path, 10**9, 0).has("x" * 300)


def test_a_new_holder_has_said_nothing_yet(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a-b.json").write_text('{"epoch": 7}')
    store = StageStore(tmp_path, 10**9, 0)
    assert store.holder("a/b") == {"epoch": 7}
    held = store.claim("a/b", 0)
    assert store.holder("a/b") == {}
    held.release()


def test_a_holder_that_cannot_say_how_far_it_came_goes_on(tmp_path):
    store = StageStore(tmp_path, 10**9, 0)
    held = store.claim("key", 0)
    (tmp_path / "claims" / "key.json").mkdir()
    held.reached(3)
    held.release()
    assert store.claim("key", 0) is not None


def test_jobs_of_a_process_share_one_store_for_the_same_settings(tmp_path):
    settings = StagesConfig(dir="stages", every=10, limit_gb=2.0, memory_mb=3.0)
    store = open_store(settings, tmp_path)
    assert (store.folder, store.limit_bytes) == (tmp_path / "stages", 2 * 10**9)
    held = put(store, [1], size=750_000)
    assert store.get(held) is not None
    assert open_store(settings.model_copy(update={"dir": str(tmp_path / "stages")}), Path("/")) is store
    for change in ({"dir": None}, {"limit_gb": 1.0}, {"memory_mb": 1.0}):
        assert open_store(settings.model_copy(update=change), tmp_path) is not store
    assert open_store(settings.model_copy(update={"dir": None})).folder is None
