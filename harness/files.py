"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from harness.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent


def write_atomic(path: Path, content: bytes | memoryview | Iterable[bytes], durable: bool = True) -> None:
    """Write a temporary file beside `path`, bring it to the disk, then put it in the place of `path`.

    Content may come piece by piece, so that not all of it is held at once.
    Without `durable` the disk is not waited for: a power cut, unlike a killed process, may then leave a damaged file.

    Raises:
        UserError: naming file and reason when the disk is full or the folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        try:
            with temporary.open("wb") as file:
                file.writelines([content] if isinstance(content, bytes | memoryview) else content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write UTF-8 text; raises as `write_atomic`."""
    write_atomic(path, text.encode(), durable)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON; raises as `write_atomic`, and `ValueError` for NaN and infinities, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


class WriteBehind:
    """A thread that writes while the caller goes on: one thing at a time, each whole before the next is begun.

    While it is entered it may be given work; leaving waits for what was given. What the work raises is raised by the
    call after it, or on leaving; where the block ends by an error of its own, it is logged.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "write behind")
        self._given: Future[None] | None = None

    def give(self, work: Callable[[], None]) -> None:
        """Begin the work once what was given before is done."""
        self.wait()
        self._given = self._pool.submit(work)

    def wait(self) -> None:
        """Wait for what was given."""
        given, self._given = self._given, None
        if given is not None:
            given.result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except UserError as error:
            if kind is None:
                raise
            log.warning("%s", error)
        finally:
            self._pool.shutdown()


def at_once(path: str, flags: int) -> int:
    """An `opener` that does not wait for whoever writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def open_file(path: Path) -> BufferedReader:
    """A file for reading; raises `OSError` also for a pipe or a device, which might be waited for without end."""
    file = open(path, "rb", opener=at_once)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is no file", str(path))
    return file


def read_file(path: Path) -> bytes:
    """All of a file; raises as `open_file`."""
    with open_file(path) as file:
        return file.read()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where the file is absent, damaged or holds anything else."""
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


_SEAL = "sha256"


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object that says its own SHA-256; raises as `write_json`."""
    write_json(path, {**value, _SEAL: _seal(value)})


def read_sealed(path: Path, since: str | None = None) -> dict[str, Any] | None:
    """The object that `write_sealed` wrote, without its seal; None where anything about the file is wrong.

    `since` is a key that such objects have since they are sealed: one that has neither is from before, and is taken.
    """
    return unsealed(read_object(path), since)


def unsealed(value: dict[str, Any], since: str | None = None) -> dict[str, Any] | None:
    """As `read_sealed`, of an object that was read already."""
    seal = value.pop(_SEAL, None)
    if value and since is not None and seal is None and since not in value:
        return value
    try:
        return value if seal == _seal(value) else None
    except ValueError:  # NaN, which JSON lacks and Python reads
        return None


def _seal(value: Mapping[str, Any]) -> str:
    """The same for whoever writes the same object in another order or with other spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; raises `OSError`."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Those of these files (SHA-256 by name) that are gone, cannot be read or hold something else, in their order."""
    names = []
    for name, digest in digests.items():
        try:
            if sha256_of(folder / name) == digest:
                continue
        except (OSError, ValueError):  # ValueError: a name that no file can have
            pass
        names.append(name)
    return names


def remove_leftovers(*folders: Path) -> None:
    """Delete the temporary files that a killed process left; call only while no other process writes there."""
    for folder in folders:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# What can change the bits of a run; the other folders only read, check, write and show.
_COMPUTES = ("data", "instantiate.py", "models", "seeding.py", "training")


@cache
def code_digest(*parts: str) -> str:
    """SHA-256 over the source of these folders and files of the package; without any, of all that can change bits."""
    digest = hashlib.sha256()
    for part in sorted(parts or _COMPUTES):
        place = PACKAGE / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
