"""Disks that fill, become read-only or lose the run's folder, at any moment; Linux, with the right to mount."""

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from .campaign import Campaign
from .trainer import VARIANTS, left, on_each_change, refer, reference, runs_in, train, working_in

_PLACES = ("hydra.run.dir=disk/run", "stages.dir=disk/stages")
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000


def _prepare(shared: Path) -> None:
    for name, settings in VARIANTS.items():
        (shared / name).mkdir()
        with working_in(shared / name):
            refer(f"../{name}", *settings, *_PLACES, folder="disk/run")


def _attempt(rng: random.Random, shared: Path, folder: Path) -> str:
    name = rng.choice(list(VARIANTS))
    undisturbed, command = reference(shared, name), (*VARIANTS[name], *_PLACES)
    _own_mounts()
    Path("disk").mkdir()
    kind = rng.choice(["full", "full", "read-only", "vanished"])
    size = rng.randrange(40_000, 500_000) if kind == "full" else 64_000_000
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", "disk")
    if kind == "read-only":
        _mount("-o", "remount,ro", "disk")
    moment = rng.randint(1, undisturbed.changes)
    trouble: dict[str, Callable[[], object]] = {
        "full": lambda: None,
        "read-only": lambda: None,
        "vanished": lambda: shutil.rmtree("disk/run", ignore_errors=True),
    }

    def disturb(count: int) -> None:
        if count == moment:
            trouble[kind]()

    ended = train(*command, prelude=lambda: on_each_change(disturb))
    if ended.status:
        errors = [line for line in ended.expect(2).text.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, f"not one message: {ended.text}"
        assert "disk" in errors[0], f"names no file: {errors[0]}"
    _mount("-o", "remount,rw,size=64000000", "disk")
    if ended.status and Path("disk/run/request.json").exists():
        train("resume=disk/run").expect(0)
    elif ended.status:
        train(*command).expect(0)
    if kind != "vanished" or ended.status:
        results = {run.name: left(run) for run in runs_in(Path("disk/run"))}
        assert results == undisturbed.results, "the results differ from those of an undisturbed run"
    return f"{kind}: {'told, then gone on with' if ended.status else 'went through'}"


def _own_mounts() -> None:
    """What is mounted from now on is this process's alone, and goes with it."""
    flags = _CLONE_NEWNS if os.geteuid() == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), "no mounts of one's own here")
    _mount("--make-rprivate", "/")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


CAMPAIGN = Campaign(
    what="disks that fill, become read-only or lose the folder; one message, and the command that goes on",
    cases=300,
    few=4,
    prepare=_prepare,
    attempt=_attempt,
)
