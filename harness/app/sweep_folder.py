"""A multirun's folder, and the record there: which command it is of, and whether all of its jobs completed."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.files import code_digest, read_sealed, remove_leftovers, write_sealed
from harness.record import RUN_FILE, RUN_FILES, SWEEP_FILE
from harness.runs.lock import LOCK, remove_unused

log = logging.getLogger(__name__)

# Both say of which command a sweep is, each with a digest of what it says.
SWEEP, TREE = SWEEP_FILE, "tree.json"
_HYDRA_S_OWN = "multirun.yaml"

# Where conf/config.yaml has sweeps put their folders.
_SWEEPS = Path("runs")


def seen_from_here(path: Path) -> Path:
    """The path in short where it lies below the present folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def unfinished(arguments: Sequence[str]) -> Path | None:
    """The newest folder of a sweep with this command line, begun with this code, that is neither done nor running."""
    wanted = _record(arguments, is_finished=False)
    found = []
    for record in _SWEEPS.glob(f"*/{SWEEP}"):
        if read_sealed(record) == wanted and not _is_running(record.parent):
            found.append(record)
    return max(found, key=lambda record: record.stat().st_mtime).parent if found else None


def new_folder(wanted: Path) -> Path:
    """Make a folder of this name, with a number behind it where the name is taken: two sweeps may begin in one second.

    Raises:
        UserError: when it cannot be made.
    """
    names = itertools.chain([wanted.name], (f"{wanted.name}_{number}" for number in itertools.count(2)))
    for folder in map(wanted.with_name, names):
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(folder, error) from error
    raise AssertionError


def open_folder(folder: Path, arguments: Sequence[str]) -> FileLock:
    """Make the folder that of a sweep with this command line; returns the lock that says that it is running.

    Raises:
        UserError: when it belongs to another sweep, or cannot be written.
    """
    place = f"hydra.sweep.dir={seen_from_here(folder)}"
    begun: dict[str, Any] = next((found for name in (SWEEP, TREE) if (found := read_sealed(folder / name))), {})
    if begun.get("arguments", list(arguments)) != list(arguments):
        command = " ".join(begun["arguments"])
        raise UserError(
            f"{place}: holds the sweep of another command (train.py {command}); must be a new folder, "
            "in which no epoch that is in the stage store is trained again, or the very same command"
        )
    if not begun and any(folder.glob(f"*/{RUN_FILE}")):
        if not (folder / SWEEP).exists():
            raise UserError(f"{place}: holds runs that are not of this sweep; must be a new folder")
        # Each job checks that the run in its folder is its own.
        log.warning("%s: %s is damaged; it is taken for that of this command, and written anew", place, SWEEP)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{place}: this sweep is running in another process") from None
    except OSError as error:
        raise _unwritable(folder, error) from error
    remove_leftovers(folder, *(folder / name for name in ("report", "aggregated")))
    write_sealed(folder / SWEEP, _record(arguments, is_finished=False))
    return lock


def note_finished(folder: Path, arguments: Sequence[str]) -> None:
    """Record that all jobs completed, so that the same command begins a new sweep.

    Raises:
        UserError: when the record cannot be written.
    """
    write_sealed(folder / SWEEP, _record(arguments, is_finished=True))


def holds_results(folder: Path) -> bool:
    """Whether any job has left anything below the folder."""
    return any(True for name in RUN_FILES for _ in folder.rglob(name))


def remove_if_unused(folder: Path) -> None:
    """Delete the folder of a sweep that ended before any of its jobs had a folder of its own."""
    remove_unused(folder, SWEEP, TREE, _HYDRA_S_OWN)


def _record(arguments: Sequence[str], is_finished: bool) -> dict[str, Any]:
    """The content of sweep.json: the command, and what has to be the same for its runs to be comparable."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    code = {"training_code": code_digest(), "versions": versions}
    return {"arguments": list(arguments), **code, "finished": is_finished}


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"hydra.sweep.dir={seen_from_here(folder)}: cannot be written: {error.strerror or error}")


def _is_running(folder: Path) -> bool:
    try:
        with FileLock(folder / LOCK).acquire(blocking=False):
            return False
    except (Timeout, OSError):
        return True
