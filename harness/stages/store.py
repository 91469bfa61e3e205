"""The stage store: training states at epoch boundaries, filed by name, for every run that comes past there.

A folder may be used by many processes and machines at once. An entry is a file that is there whole or not at all,
with its checksum inside; two writers of one name write the same state, so it does not matter who comes last. What
makes entries worth keeping, and whether a claimed stretch of epochs is being trained, hangs on file locks, which the
operating system drops when their process ends, however it ends. An entry is checked against damage, not against fraud:
whoever may write here can put another state in the place of one.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from harness.config import StagesConfig
from harness.errors import UserError
from harness.files import read_object, write_text
from harness.stages import keys
from harness.training.state import DamagedCheckpointError, TrainState, load_state, save_state

log = logging.getLogger(__name__)

_STATE, _NOTE, _DAMAGED = ".pt", ".json", ".damaged"
_CLAIMS, _SWEEPS = "claims", "sweeps"
_A_DAY = 24 * 60 * 60.0

# Eviction goes a little below the limit, so that not every further entry has to evict.
_AFTER_EVICTION = 0.9


@dataclass(frozen=True)
class Entry:
    """A stored state: name, file, size in bytes and when it was last written or used (seconds since 1970)."""

    name: str
    path: Path
    size: int
    used: float

    @property
    def key(self) -> str:
        """The part of its name that a sweep knows."""
        return self.path.stem

    def note(self) -> dict[str, Any]:
        """What was noted beside it for people: `epoch`, `lr`, `scheduler`, `seed`; empty where that is lost."""
        return read_object(self.path.with_suffix(_NOTE))


class StageStore:
    """States by name (`keys.names`) in `folder`, at most about `limit_bytes` of them on the disk.

    The latest `memory_bytes` of states that this process wrote or read stay in its memory as well. Without a folder
    that is all there is.
    """

    def __init__(self, folder: Path | None, limit_bytes: int, memory_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._memory = _Memory(memory_bytes)
        self._bytes_on_disk: int | None = None

    def has(self, name: str) -> bool:
        """Whether there is an entry; it may still turn out to be damaged."""
        return name in self._memory or self._exists(name)

    def get(self, name: str) -> TrainState | None:
        """The state, or None where there is none or its file is damaged, which is then set aside."""
        if (state := self._memory.get(name)) is not None:
            return state
        if not self._exists(name):
            return None
        path = self._path(name)
        try:
            state = load_state(path)
            if name not in _names_of(state):
                raise DamagedCheckpointError(f"{path}: holds another state than its name says")
        except DamagedCheckpointError as error:
            if self._exists(name):  # else it was evicted meanwhile
                log.warning("%s; it is set aside, and its epochs are trained again", error)
                with contextlib.suppress(OSError):  # gone by now, or in a folder that can only be read
                    path.rename(path.with_suffix(_DAMAGED))
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self._memory.put(name, state)
        return state

    def put(self, name: str, state: TrainState, note: dict[str, Any]) -> None:
        """File a state, with a note for people.

        Raises:
            UserError: when it cannot be written.
        """
        self._memory.put(name, state)
        if self.folder is None:
            return
        path = self._path(name)
        with _as_user_error(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path.with_suffix(_NOTE), json.dumps({**note, "epoch": state.epoch}), False)
            # A power cut may damage it, which the checksum finds; waiting for the disk would cost more than training
            # again.
            self._keep_to_limit(save_state(path, state, durable=False))

    def claim(self, name: str, seconds: float) -> Claim | None:
        """The claim of whoever trains the epochs that lead to this state; None while another process has it.

        Raises:
            UserError: when the folder cannot be written.
        """
        path = self._claim_path(name)
        lock = FileLock(path.with_suffix(".lock"))
        with _as_user_error(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=seconds)
            except Timeout:
                return None
        return Claim(lock, path)

    def holder(self, name: str) -> dict[str, Any]:
        """What the holder of a claim says of itself (`Claim`); empty where that is lost, and changed by each sign of
        life."""
        return read_object(self._claim_path(name))

    @contextlib.contextmanager
    def sweep(self, needed: Iterable[str]) -> Iterator[None]:
        """While entered, in whatever process, no entry with one of these keys is evicted.

        Raises:
            UserError: when the folder cannot be written.
        """
        if self.folder is None:
            yield
            return
        pins = self.folder / _SWEEPS / f"{uuid.uuid4().hex}.json"
        lock = FileLock(pins.with_suffix(".lock"))
        with _as_user_error(pins.parent):
            pins.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            write_text(pins, json.dumps(sorted(needed)))
            yield
        finally:
            _unlink(pins, pins.with_suffix(".lock"))
            lock.release()

    def entries(self) -> list[Entry]:
        """All entries on the disk, the one that was used longest ago first."""
        entries = []
        for path in self._files(_STATE):
            with contextlib.suppress(OSError):  # evicted meanwhile
                stat = path.stat()
                name = path.relative_to(self.folder or "").with_suffix("").as_posix()
                entries.append(Entry(name, path, stat.st_size, stat.st_mtime))
        return sorted(entries, key=lambda entry: entry.used)

    def pinned(self) -> set[str]:
        """The keys of states that running sweeps need; what dead ones left is removed."""
        needed: set[str] = set()
        for pins in (self.folder / _SWEEPS).glob("*.json") if self.folder is not None else ():
            if _is_free(pins.with_suffix(".lock")):
                _unlink(pins, pins.with_suffix(".lock"))
                continue
            with contextlib.suppress(OSError, ValueError, TypeError):
                needed.update(json.loads(pins.read_text()))
        return needed

    def evict(self, to_bytes: int) -> list[Entry]:
        """Delete the entries used longest ago until so many bytes are left, but none that a running sweep needs."""
        entries = self.entries()
        left, pinned = sum(entry.size for entry in entries), self.pinned()
        gone = []
        for entry in entries:
            if left > to_bytes and entry.key not in pinned:
                _unlink(entry.path, entry.path.with_suffix(_NOTE))
                gone.append(entry)
                left -= entry.size
        self._bytes_on_disk = left
        return gone

    def remove_debris(self) -> list[Path]:
        """Delete what damaged entries, killed writers and old claims left behind."""
        if self.folder is None:
            return []
        old = time.time() - _A_DAY
        gone = [*self._files(_DAMAGED)]
        gone += [path for path in self._files(".tmp") if _modified(path) < old]
        claims = [path for path in (self.folder / _CLAIMS).glob("*.lock") if _modified(path) < old and _is_free(path)]
        gone += [*claims, *(about for path in claims if (about := path.with_suffix(_NOTE)).exists())]
        notes = (note for note in self._files(_NOTE) if not note.with_suffix(_STATE).exists())
        gone += [note for note in notes if _modified(note) < old]
        _unlink(*gone)
        return [path for path in gone if not path.exists()]

    def _files(self, suffix: str) -> list[Path]:
        """The files with states and beside them; earlier versions put all of them into one folder."""
        if self.folder is None:
            return []
        paths = [*self.folder.glob(f"*{suffix}"), *self.folder.glob(f"*/*{suffix}")]
        return [path for path in paths if path.parent.name not in (_CLAIMS, _SWEEPS)]

    def _keep_to_limit(self, added: int) -> None:
        if self._bytes_on_disk is None:
            self._bytes_on_disk = sum(entry.size for entry in self.entries())
        else:
            self._bytes_on_disk += added
        if self._bytes_on_disk <= self.limit_bytes:
            return
        # Other processes write too, so the count above is only a reason to look.
        self.evict(round(self.limit_bytes * _AFTER_EVICTION))
        if self._bytes_on_disk > self.limit_bytes:
            need = f"the running sweep needs {self._bytes_on_disk / 1e9:.2f} GB, which are kept until it is over"
            log.warning("stages.limit_gb=%g: %s", self.limit_bytes / 1e9, need)

    def _claim_path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / _CLAIMS / f"{name.replace('/', '-')}{_NOTE}"

    def _exists(self, name: str) -> bool:
        try:
            return self.folder is not None and self._path(name).exists()
        except OSError:  # in a folder that may not be looked into
            return False

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}{_STATE}"


class Claim:
    """The right to train the epochs that lead to a state, held until `release` or the end of the process.

    A file beside the lock tells those who wait of the holder: `process`, `host`, `since`, a time for people, and
    `epoch`, the boundary that it has reached.
    """

    def __init__(self, lock: FileLock, path: Path) -> None:
        self._lock, self._path = lock, path
        self._about = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        # What the last holder left is not ours.
        _unlink(path)

    def reached(self, epoch: int) -> None:
        """Give a sign of life at the boundary before an epoch; the claim holds without, so a full disk is no harm."""
        with contextlib.suppress(UserError):
            write_text(self._path, json.dumps({**self._about, "epoch": epoch}), durable=False)

    def release(self) -> None:
        """Let others have it."""
        _unlink(self._path)
        self._lock.release()


class _Memory:
    """States in this process's memory, the one used longest ago dropped first; what it gives is a copy."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._states: OrderedDict[str, tuple[TrainState, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._states

    def get(self, key: str) -> TrainState | None:
        if key not in self._states:
            return None
        self._states.move_to_end(key)
        # An optimizer takes over the very tensors that it is given, and trains on in them.
        return copy.deepcopy(self._states[key][0])

    def put(self, key: str, state: TrainState) -> None:
        size = _size(state.learned)
        if key in self._states or size > self._limit:
            return
        self._states[key] = (copy.deepcopy(state), size)
        self._used += size
        while self._used > self._limit:
            self._used -= self._states.popitem(last=False)[1][1]


_stores: dict[tuple[str | None, int, int], StageStore] = {}


def open_store(stages: StagesConfig, start: Path = Path()) -> StageStore:
    """The store for these settings; one a process, so that its jobs share the states in memory.

    A relative folder is meant from `start`.
    """
    folder = None if stages.dir is None else start / stages.dir
    place = None if folder is None else str(folder.resolve())
    arguments = (place, round(stages.limit_gb * 1e9), round(stages.memory_mb * 1e6))
    if arguments not in _stores:
        _stores[arguments] = StageStore(folder, *arguments[1:])
    return _stores[arguments]


def verify(entries: Sequence[Entry], store: StageStore) -> list[Entry]:
    """Read every entry and return the damaged ones, which are set aside."""
    checked = StageStore(store.folder, store.limit_bytes, memory_bytes=0)
    return [entry for entry in entries if checked.get(entry.name) is None]


def _names_of(state: TrainState) -> tuple[str, ...]:
    """The names that a state may be filed under; none where it is no state of a run."""
    try:
        return keys.names_of(state.identity, [row.lr for row in state.rows])
    except Exception:  # its file has a digest that fits, but anything may stand in it
        return ()


@contextlib.contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"stages.dir: {path} cannot be written: {error.strerror or error}") from error


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock).acquire(blocking=False):
            return True
    except (Timeout, OSError):
        return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _unlink(*paths: Path) -> None:
    """Delete what can be; what is gone already, or may not be deleted, does not matter."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _size(tree: Any) -> int:
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict):
        return sum(_size(value) for value in tree.values())
    return 0
