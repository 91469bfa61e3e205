"""All that training carries from one epoch to the next: captured, restored, hashed, and kept in checked files."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.errors import UserError
from harness.files import remove_leftovers, write_atomic

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class TrainState:
    """The state at the boundary before epoch `epoch`: copies on the CPU that training does not touch.

    `optimizer` holds the state of each parameter but no settings, since learning rates follow from the schedule's
    plan. `rows` are the lines of metrics.jsonl of the epochs that led here; `identity` says what made the bits.
    """

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    scaler: dict[str, Any]
    rows: list[dict[str, Any]]
    identity: dict[str, Any]


def capture(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    rows: Sequence[Mapping[str, Any]],
    identity: Mapping[str, Any],
) -> TrainState:
    """Copy the state after `len(rows)` epochs."""
    return TrainState(
        epoch=len(rows),
        model={name: _copy(value) for name, value in model.state_dict().items()},
        optimizer={
            index: {name: _copy(value) for name, value in entry.items()}
            for index, entry in optimizer.state_dict()["state"].items()
        },
        scaler=scaler.state_dict(),
        rows=[dict(row) for row in rows],
        identity=dict(identity),
    )


def restore(state: TrainState, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Put a captured state back; the optimizer keeps the settings, learning rates among them, that it has now."""
    model.load_state_dict(state.model)
    own = optimizer.state_dict()
    if not _copied(own["state"], state.optimizer):
        optimizer.load_state_dict({**own, "state": state.optimizer})
    if state.scaler:
        scaler.load_state_dict(state.scaler)


def digest(tree: Any) -> str:
    """SHA-256 of nested mappings, sequences, plain values and tensors: names, dtypes, shapes and bytes.

    Independent of a tensor's device and memory format, and of the order of mappings.
    """
    hasher = hashlib.sha256()
    _feed(hasher, tree)
    return hasher.hexdigest()


def weights_sha256(model: nn.Module) -> str:
    """The `digest` of the model's state dict, buffers included."""
    return digest(model.state_dict())


def save_state(path: Path, state: TrainState, durable: bool = True) -> int:
    """Write the state, with its digest, atomically; the file loads with `torch.load(weights_only=True)`.

    Returns its size in bytes. `durable` as in `files.write_atomic`.

    Raises:
        UserError: when the file cannot be written.
    """
    content = asdict(state)
    return save_tensors(path, {"format": _FORMAT, "digest": digest(content), **content}, durable)


def save_tensors(path: Path, value: Any, durable: bool = True) -> int:
    """Write what `torch.load` reads, atomically, and return its size in bytes.

    Raises:
        UserError: when the file cannot be written.
    """
    # torch.save would hide a full disk behind an error of its own.
    content = io.BytesIO()
    torch.save(value, content)
    write_atomic(path, lambda file: file.write(content.getbuffer()), durable)
    return content.getbuffer().nbytes


class DamagedCheckpointError(Exception):
    """A checkpoint file that cannot be read or whose content is not what was written."""


def load_state(path: Path) -> TrainState:
    """Read a state and check its digest.

    Raises:
        DamagedCheckpointError: when anything about the file is wrong.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        form, expected = content.pop("format"), content.pop("digest")
        if form != _FORMAT:
            raise DamagedCheckpointError(f"{path}: has format {form}, this version reads {_FORMAT}")
        if digest(content) != expected:
            raise DamagedCheckpointError(f"{path}: the content does not match its checksum")
        return TrainState(**content)
    except DamagedCheckpointError:
        raise
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise DamagedCheckpointError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


@dataclass(frozen=True)
class Examined:
    """The state to continue from, if any; the files passed over, each with the reason; and the first epoch in which a
    passed over state was trained otherwise than it should have been."""

    state: TrainState | None
    passed_over: tuple[tuple[Path, str], ...]
    differs_at: int | None

    def set_aside(self) -> None:
        """Rename the files that were passed over, so that they do not count any more."""
        for path, why in self.passed_over:
            log.warning("%s is set aside (%s)", path, why)
            path.rename(path.with_suffix(f".pt.{why}"))


class Checkpoints:
    """The checkpoint files of one run: `epoch_00007.pt` is the state after seven epochs.

    Kept are the latest `keep` and the one with the best validation accuracy.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep

    def files(self) -> dict[int, Path]:
        """The files there are by number of epochs, fewest first."""
        found = self.folder.glob("epoch_*.pt")
        return dict(sorted((int(path.stem.removeprefix("epoch_")), path) for path in found))

    def is_due(self, epochs_done: int, epochs: int, best_epoch: int) -> bool:
        """Whether the state after `epochs_done` epochs is to be saved: by cadence, as the last, or as the best."""
        return epochs_done % self.every == 0 or epochs_done in (epochs, best_epoch + 1)

    def save(self, state: TrainState, best_epoch: int) -> None:
        """Save the state, then delete what is not to be kept.

        Raises:
            UserError: when the file cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        save_state(self._path(state.epoch), state)
        files = self.files()
        kept = {*list(files)[-self.keep :], best_epoch + 1}
        for epoch, path in files.items():
            if epoch not in kept:
                path.unlink()

    def examine(self, agreement: Callable[[TrainState], int]) -> Examined:
        """The latest undamaged state whose every epoch agrees, and the files that were passed over for it.

        `agreement` tells how many of a state's first epochs are as they should be.
        """
        remove_leftovers(self.folder)
        passed_over: list[tuple[Path, str]] = []
        differs_at: int | None = None
        found = None
        for path in reversed(self.files().values()):
            try:
                state = load_state(path)
            except DamagedCheckpointError as error:
                log.warning("%s; going back to an earlier checkpoint", error)
                passed_over.append((path, "damaged"))
                continue
            agreed = agreement(state)
            if agreed >= state.epoch:
                found = state
                break
            differs_at = agreed if differs_at is None else min(agreed, differs_at)
            passed_over.append((path, "superseded"))
        return Examined(found, tuple(passed_over), differs_at)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:05d}.pt"


def check_identity(state: TrainState, identity: Mapping[str, Any]) -> None:
    """Refuse to continue a run with settings or data that it was not begun with; warn of another environment.

    Raises:
        UserError: naming each setting with its old and its new value.
    """
    names = sorted({*state.identity, *identity})
    changed = [name for name in names if state.identity.get(name) != identity.get(name)]
    environment = [name for name in changed if name.startswith(("versions.", "environment."))]
    settings = [name for name in changed if name not in environment]
    if settings:
        lines = [f"{name}={identity.get(name)}: the run was begun with {state.identity.get(name)}" for name in settings]
        raise UserError("resume: only the schedule, epochs and checkpoint settings may change\n" + "\n".join(lines))
    for name in environment:
        log.warning(
            "%s was %s and is now %s: the result may differ in its last bits from an uninterrupted run",
            name.partition(".")[2],
            state.identity.get(name),
            identity.get(name),
        )


def _copied(own: dict[int, dict[str, Any]], other: Mapping[int, Mapping[str, Any]]) -> bool:
    """Copy another optimizer state into the tensors of this one, which a recorded CUDA graph reads and writes.

    False, with nothing done, where the two do not hold the same tensors, as before the first step.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for index, entry in other.items():
        for name, value in entry.items():
            there = own.get(index, {}).get(name)
            if not (isinstance(there, Tensor) and isinstance(value, Tensor)):
                return False
            pairs.append((there, value))
    for there, value in pairs:
        there.copy_(value)
    return bool(pairs)


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _feed(hasher: hashlib._Hash, node: Any) -> None:
    if isinstance(node, Tensor):
        data = node.detach().cpu().contiguous()
        hasher.update(f"tensor {data.dtype} {tuple(data.shape)}\n".encode())
        hasher.update(data.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(node, Mapping):
        hasher.update(f"mapping {len(node)}\n".encode())
        for key in sorted(node, key=repr):
            hasher.update(f"key {key!r}\n".encode())
            _feed(hasher, node[key])
    elif isinstance(node, list | tuple):
        hasher.update(f"sequence {len(node)}\n".encode())
        for item in node:
            _feed(hasher, item)
    elif node is None or isinstance(node, bool | int | float | str):
        hasher.update(f"{type(node).__name__} {node!r}\n".encode())
    else:
        raise TypeError(f"cannot hash a {type(node).__name__}")
