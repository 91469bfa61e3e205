"""The stage store by itself, and the tree that a sweep is laid into."""

import multiprocessing
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.processes import forking

from harness.errors import UserError
from harness.record import EpochRow
from harness.stages import keys
from harness.stages.store import StageStore, verify
from harness.stages.tree import PlannedRun, StageTree
from harness.training.plan import LrPlan
from harness.training.state import TrainState, save_state

IDENTITY = {"seed": 0, "model.channels": [8]}


def state(rates, identity=IDENTITY, size=1000):
    """A state after as many epochs as there are rates, and its name."""
    rows = tuple(EpochRow(e, {"default": rate}, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, False) for e, rate in enumerate(rates))
    made = TrainState(len(rows), {"model": {"weight": torch.arange(size).float()}}, rows, identity)
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
    store = StageStore(tmp_path, 10**9, 0)
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
