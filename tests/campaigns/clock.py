"""Runs and sweeps while clocks jump and files have odd times: no clock may change a result, refuse or hang anything."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import hydra.core.utils
from support.small_runs import ROOT, SMALL, compose_once, read_rows, undrawn, untimed
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from harness.compare.comparison import compare
from harness.compare.load import load_runs
from harness.report import plots
from harness.report.aggregates import write_aggregates
from harness.report.exports import runs_csv
from harness.runs.request import Request
from harness.runs.run import run
from harness.stages.identity import settings
from harness.stages.store import StageStore
from harness.stages.tree import PlannedRun, StageTree
from harness.stages.walk import Sharing
from harness.training import learner
from harness.training.optim import preview_optimizer
from harness.training.schedule import make_plan
from tests.campaigns.campaign import Campaign

_MILESTONES = ("[1]", "[2]", "[1,2]")
_OWN = (*(o for o in SMALL if not o.startswith(("scheduler", "epochs"))), "epochs=3", "scheduler=multistep")
_YEAR = 365.25 * 24 * 60 * 60
_ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati", "XYZ-25:59:59", "nonsense/zone", ":", "")
_CLOCKS = ("plain", "stands still", "runs backwards", "jumps")
_CLOCK_COLUMNS = ("seconds", "images_per_second", "seconds_to_target", "folder", "epochs_trained", "epochs_reused")


_KILLED = 9


class _Stopped(BaseException):
    """Ends a run in the middle."""


@dataclass
class _Case:
    """What one case draws, and the folder that all of it lies in."""

    rng: random.Random
    folder: Path

    @contextmanager
    def clock(self, kind: str) -> Iterator[None]:
        """While entered, this process's clock is of that kind, and the time zone another one."""
        real, start, calls = time.time, self.time(), iter(range(10**9))
        jump = random.Random(self.rng.random())
        ways: dict[str, Callable[[], float]] = {
            "plain": real,
            "stands still": lambda: start,
            "runs backwards": lambda: start - 0.25 * next(calls),
            "jumps": lambda: start + jump.choice((0.0, 1.0, 3600.0, -3600.0, 20 * _YEAR, -20 * _YEAR)),
        }
        now = ways[kind]
        with ExitStack() as held:
            held.enter_context(mock.patch.dict(os.environ, TZ=self.rng.choice(_ZONES)))
            held.enter_context(mock.patch.object(time, "time", now))
            held.enter_context(mock.patch.object(time, "time_ns", side_effect=lambda: int(now() * 1e9)))
            time.tzset()
            yield
        time.tzset()

    def time(self) -> float:
        """In seconds since 1970: then, now, or some time in a hundred years around now."""
        return self.rng.choice(
            (0.0, 1.0, time.time(), time.time() + 3600, time.time() + self.rng.uniform(-50, 50) * _YEAR)
        )

    def age(self) -> None:
        """Give the files here odd times: each its own, or all the same."""
        same = self.time()
        each = self.rng.random() < 0.7
        for path in self.folder.rglob("*"):
            when = self.time() if each else same
            os.utime(path, (when, when))

    def litter(self, store: StageStore) -> None:
        """What dead processes left in the store, from other times and in part damaged."""
        assert store.folder is not None
        claims = store.folder / "claims"
        claims.mkdir(parents=True, exist_ok=True)
        about = {"process": 1, "host": "gone", "since": "2099-01-01", "epoch": 9}
        for place in (*claims.glob("*.lock"), claims / "other.lock"):
            place.touch()
            place.with_suffix(".json").write_text(self.rng.choice((json.dumps(about), "", "[]", "{")))
        (store.folder / "sweeps").mkdir(exist_ok=True)
        (store.folder / "sweeps" / "dead.json").write_text(self.rng.choice(('["key"]', "", "5")))


def _runs(case: _Case, shared: Path) -> str:
    """Three runs over one store, one after the other; some are stopped and continued."""
    rng, folder = case.rng, case.folder
    odd = rng.choice(("clock", "times of files", "eviction", "claims", "all of it"))
    jobs = [compose_once(*_OWN, f"scheduler.milestones={milestones}") for milestones in _MILESTONES]
    plans = [make_plan(c.scheduler, preview_optimizer(c.optimizer), c.epochs) for c, _ in jobs]
    tree = StageTree(tuple(PlannedRun("", settings(c), plan) for (c, _), plan in zip(jobs, plans, strict=True)))
    clock = rng.choice(_CLOCKS[1:]) if odd in ("clock", "all of it") else "plain"
    limit = rng.choice((1, 30_000, 60_000)) if odd in ("eviction", "all of it") else 10**9
    store = StageStore(folder / "stages", limit, 0)
    for number in rng.sample(range(len(jobs)), len(jobs)):
        sharing = Sharing(store, True, rng.choice((1, 100)), tree.save_at(number))
        place = folder / f"run_{number}"
        with case.clock(clock), store.sweep(tree.branch_keys if rng.random() < 0.5 else ()), undrawn():
            start = partial(Request, *jobs[number], place, sharing=sharing)
            if rng.random() < 0.4:
                with mock.patch.object(learner, "train_epoch", _stopping_after(rng.randrange(3))), suppress(_Stopped):
                    run(start(resume=False))
                _disturb(case, odd, store)
            run(start(resume=place.exists()))
        _disturb(case, odd, store)
    for clock_of_report in (clock, rng.choice(_CLOCKS)):
        with case.clock(clock_of_report):
            write_aggregates(compare(load_runs([folder])).groups, folder / "aggregated")
    _check(shared, [folder / f"run_{number}" for number in range(len(jobs))])
    _check_means(folder / "aggregated")
    return f"runs: {odd}, clock {clock}" if clock != "plain" else f"runs: {odd}"


def _disturb(case: _Case, odd: str, store: StageStore) -> None:
    if odd in ("claims", "all of it"):
        case.litter(store)
    if odd != "clock":
        case.age()
    if case.rng.random() < 0.5:
        store.remove_debris()
    if odd in ("eviction", "all of it"):
        store.evict(store.limit_bytes)


def _stopping_after(epochs: int, is_killed: bool = False) -> Callable[..., Any]:
    """To be called for each epoch: trains so many, then the run, or its whole process, stops."""
    real, left = learner.train_epoch, iter(range(epochs))

    def train_epoch(*arguments: Any, **more: Any) -> Any:
        if next(left, None) is None:
            if is_killed:
                os._exit(_KILLED)
            raise _Stopped
        return real(*arguments, **more)

    return train_epoch


def _continued(case: _Case, shared: Path) -> str:
    """A sweep that is killed, and continued by its own command when files have other times and the clock jumps."""
    rng = case.rng
    command = ("-m", *_OWN, f"scheduler.milestones={','.join(_MILESTONES[:2])}")
    clocks = [rng.choice(_CLOCKS) for _ in range(2)]
    _ended(_sweep(case, command, clocks[0], dies_after=rng.randrange(1, 5)), status=_KILLED)
    case.age()
    _ended(_sweep(case, command, clocks[1]))
    (folder,) = case.folder.glob("runs/*_sweep")
    _check(shared, sorted(folder.glob("[0-9]_*")))
    _check_means(folder / "aggregated")
    assert json.loads((folder / "sweep.json").read_text())["finished"] is True
    return f"a killed sweep, clock {clocks[1]}"


def _together(case: _Case, shared: Path) -> str:
    """Two sweeps, of one command or of two, that begin in the same second over one store."""
    second = case.rng.choice((_MILESTONES[:2], _MILESTONES[1::-1]))
    commands = [("-m", *_OWN, f"scheduler.milestones={','.join(swept)}") for swept in (_MILESTONES[:2], second)]
    started = [_sweep(case, command, case.rng.choice(_CLOCKS)) for command in commands]
    for process in started:
        _ended(process)
    folders = list(case.folder.glob("runs/*_sweep*"))
    assert len(folders) == 2
    for folder in folders:
        _check(shared, sorted(folder.glob("[0-9]_*")), is_ordered=False)
        _check_means(folder / "aggregated")
    return f"two sweeps of one second, {'one command' if commands[0] == commands[1] else 'two commands'}"


def _sweep(case: _Case, command: tuple[str, ...], clock: str, dies_after: int | None = None) -> int:
    """Start train.py in a forked process whose clock is of that kind, and return its number."""
    seed, second = case.rng.random(), datetime(2026, 1, 1, 12)
    if process := os.fork():
        return process
    status = 1
    try:
        output = os.open(case.folder / f"output_{os.getpid()}", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["train.py", *command]
        frozen = mock.Mock(now=lambda: second)
        here = _Case(random.Random(seed), case.folder)
        with ExitStack() as held:
            held.enter_context(mock.patch.object(hydra.core.utils, "datetime", frozen))
            held.enter_context(mock.patch.dict(plots.PICTURES, clear=True))
            held.enter_context(undrawn())
            held.enter_context(here.clock(clock))
            if dies_after is not None:
                held.enter_context(
                    mock.patch.object(learner, "train_epoch", _stopping_after(dies_after, is_killed=True))
                )
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _ended(process: int, status: int = 0) -> None:
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    # The kill may come too late for a short sweep.
    assert ended in {status, 0}, f"status {ended}: {Path(f'output_{process}').read_text()}"


def _made_of(folder: Path) -> list[Any]:
    rows = [{k: v for k, v in row.items() if k != "reused"} for row in untimed(read_rows(folder))]
    return [rows, json.loads((folder / "summary.json").read_text())["weights_sha256"]]


def _table(folders: list[Path]) -> list[dict[str, str]]:
    """runs.csv of these runs, by schedule, without what clocks and the order of runs decide."""
    rows = csv.DictReader(runs_csv(compare(load_runs(folders))).splitlines())
    plain = [{k: v for k, v in row.items() if k not in (*_CLOCK_COLUMNS, "run", "overrides")} for row in rows]
    return sorted(plain, key=lambda row: row["scheduler.milestones"])


def _check(shared: Path, folders: list[Path], is_ordered: bool = True) -> None:
    """The runs are those of the plain clock, and TensorBoard has each of their epochs once, in order."""
    expected = json.loads((shared / "expected.json").read_text())
    found = [_made_of(folder) for folder in folders]
    wanted = expected["runs"][: len(folders)]
    assert found == wanted or (not is_ordered and found == wanted[::-1]), "rows or weights differ"
    assert _table(folders) == expected["tables"][str(len(folders))], "runs.csv differs"
    for folder in folders:
        _check_events(folder, "val/loss")


def _check_means(folder: Path) -> None:
    schedules = list(folder.iterdir())
    assert schedules, "no means"
    for schedule in schedules:
        _check_events(schedule, "mean/val/loss")


def _check_events(folder: Path, tag: str) -> None:
    (events,) = folder.glob("events.out.tfevents.*")
    steps = [e.step for e in EventFileLoader(str(events)).Load() for v in e.summary.value if v.tag == tag]
    assert steps == [0, 1, 2], f"{events}: epochs {steps}"


def _prepare(shared: Path) -> None:
    folders = [shared / f"run_{number}" for number in range(len(_MILESTONES))]
    for folder, milestones in zip(folders, _MILESTONES, strict=True):
        with undrawn():
            run(Request(*compose_once(*_OWN, f"scheduler.milestones={milestones}"), folder, resume=False))
    tables = {str(count): _table(folders[:count]) for count in (2, 3)}
    made = {"runs": [_made_of(folder) for folder in folders], "tables": tables}
    (shared / "expected.json").write_text(json.dumps(made))


def _attempt(rng: random.Random, shared: Path, folder: Path) -> str:
    logging.disable(logging.CRITICAL)
    way = rng.choices((_runs, _continued, _together), weights=(6, 2, 2))[0]
    return way(_Case(rng, folder), shared)


CAMPAIGN = Campaign("sweeps under odd clocks and with odd times of files", 300, 4, _attempt, _prepare)
