"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import UserError

PACKAGE = Path(__file__).resolve().parent


def write_atomic(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """Write a temporary file beside `path`, bring it to the disk, then put it in the place of `path`.

    Without `durable` the disk is not waited for: a power cut, unlike a killed process, may then leave a damaged file.

    Raises:
        UserError: naming file and reason when the disk is full or the folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where the file is absent, damaged or holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left; call only while no other process writes there."""
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
