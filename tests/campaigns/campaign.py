"""What a campaign is, and how its cases are tried: each in a process of its own, by number."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from support.processes import forking

NAMES = ("kills", "bytes", "fuzz", "disk", "images", "clock")


def _nothing(shared: Path) -> None:
    """What a campaign prepares that needs nothing."""


@dataclass(frozen=True)
class Campaign:
    """`what` it tries in a line, and `cases`, how many make it whole, the first `few` of them inside the tests.

    `prepare(shared)` makes once, in an empty folder, what all cases read. `attempt(rng, shared, folder)` is one case in
    an empty folder of its own, the working directory: it returns in a few words what kind of case it was, and raises
    what went wrong. A case that takes more than `seconds` hangs.
    """

    what: str
    cases: int
    few: int
    attempt: Callable[[random.Random, Path, Path], str]
    prepare: Callable[[Path], None] = _nothing
    seconds: float = 120.0


@dataclass
class Outcome:
    """How many cases were tried, by kind, and what went wrong, by the number of the case."""

    kinds: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        """All cases."""
        return self.kinds.total() + len(self.failures)


def find(name: str) -> Campaign:
    """The campaign with this name."""
    found: Campaign = importlib.import_module(f".{name}", __package__).CAMPAIGN
    return found


def run(name: str, numbers: Iterable[int], seed: int = 0, jobs: int = 1) -> Iterator[Outcome]:
    """Try these cases, so many at once; the outcome so far is given after each of them."""
    campaign, outcome = find(name), Outcome()
    top = Path(tempfile.mkdtemp(prefix=f"campaign-{name}-"))
    try:
        (shared := top / "shared").mkdir()
        preparing = forking().Process(target=campaign.prepare, args=(shared,))
        preparing.start()
        preparing.join()
        if preparing.exitcode:
            raise RuntimeError(f"{name}: what all cases need could not be made")
        with ThreadPoolExecutor(jobs) as pool:
            tried = pool.map(lambda number: (number, *_tried(name, seed, number, top)), numbers)
            for number, kind, failure in tried:
                if failure:
                    outcome.failures[number] = failure
                else:
                    outcome.kinds[kind] += 1
                yield outcome
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _tried(name: str, seed: int, number: int, top: Path) -> tuple[str, str]:
    """The kind of a case, and what went wrong in it, or nothing."""
    (folder := top / str(number)).mkdir()
    here, there = forking().Pipe(duplex=False)
    process = forking().Process(target=_case, args=(name, seed, number, top / "shared", folder, there))
    process.start()
    there.close()
    try:
        if not here.poll(seconds := find(name).seconds):
            process.kill()
            return "", f"hangs: not over after {seconds:g} seconds"
        return here.recv()
    except EOFError:
        process.join()
        return "", f"the process ended with status {process.exitcode}"
    finally:
        process.join()
        shutil.rmtree(folder, ignore_errors=True)


def _case(name: str, seed: int, number: int, shared: Path, folder: Path, answer: Connection) -> None:
    os.chdir(folder)
    try:
        answer.send((find(name).attempt(random.Random(f"{name} {seed} {number}"), shared, folder), ""))
    except BaseException:
        answer.send(("", traceback.format_exc()))
