"""Whose a run's folder is: nothing there changes but by the process that holds its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While entered, no other process changes what lies in this run's folder, which is made where there is none.

    Raises:
        UserError: while another process trains there, and where the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder}: another process is training in this folder; wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def remove_unused(folder: Path, *own: str) -> None:
    """Delete the folder of a run, or of a sweep, that ended before it left anything there but its lock and `own`."""
    with suppress(OSError, UserError):
        names = {path.name for path in folder.iterdir()}
        if names and names <= {LOCK, *own}:
            with held(folder):
                for name in (*own, LOCK):
                    (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
