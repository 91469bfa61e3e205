"""The record of a multirun in its folder: which command it is of, and whether all of its jobs completed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.files import code_digest, read_object, write_json
from harness.record import RUN_FILE

SWEEP = "sweep.json"
_LOCK = ".lock"

# Where conf/config.yaml has sweeps put their folders.
_SWEEPS = Path("runs")


def unfinished(arguments: Sequence[str]) -> Path | None:
    """The newest folder of a sweep with this command line, begun with this code, that is neither done nor running."""
    wanted = {"arguments": list(arguments), **_circumstances(), "finished": False}
    found = []
    for record in _SWEEPS.glob(f"*/{SWEEP}"):
        if read_object(record) == wanted and not _is_running(record.parent):
            found.append(record)
    return max(found, key=lambda record: record.stat().st_mtime).parent if found else None


def open_folder(folder: Path, arguments: Sequence[str]) -> FileLock:
    """Make the folder that of a sweep with this command line; returns the lock that says that it is running.

    Raises:
        UserError: when it belongs to another sweep, or cannot be written.
    """
    begun = read_object(folder / SWEEP)
    if begun.get("arguments", list(arguments)) != list(arguments):
        command = " ".join(begun["arguments"])
        raise UserError(
            f"hydra.sweep.dir={folder}: holds the sweep of another command (train.py {command}); must be a new folder, "
            "in which no epoch that is in the stage store is trained again, or the very same command"
        )
    if not begun and any(folder.glob(f"*/{RUN_FILE}")):
        raise UserError(f"hydra.sweep.dir={folder}: holds runs that are not of this sweep; must be a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"hydra.sweep.dir={folder}: this sweep is running in another process") from None
    except OSError as error:
        raise UserError(f"hydra.sweep.dir={folder}: cannot be written: {error.strerror or error}") from error
    write_json(folder / SWEEP, {"arguments": list(arguments), **_circumstances(), "finished": False})
    return lock


def note_finished(folder: Path) -> None:
    """Record that all jobs completed, so that the same command begins a new sweep.

    Raises:
        UserError: when the record cannot be written.
    """
    write_json(folder / SWEEP, {**read_object(folder / SWEEP), "finished": True})


def _circumstances() -> dict[str, Any]:
    """What has to be the same for the runs of a continued sweep to be comparable."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    return {"training_code": code_digest(), "versions": versions}


def _is_running(folder: Path) -> bool:
    try:
        with FileLock(folder / _LOCK).acquire(blocking=False):
            return False
    except (Timeout, OSError):
        return True
