"""All that training carries from one epoch to the next: set aside, restored, hashed, and kept in checked files."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.files import open_file, write_atomic
from harness.record import EpochRow

_FORMAT = 1


@dataclass(frozen=True)
class TrainState:
    """The state at the boundary before epoch `epoch`: copies on the CPU that training does not touch.

    `learned` is the tree of `Aside`, `rows` are those of the epochs that led here, `identity` says what made the
    bits.
    """

    epoch: int
    learned: dict[str, Any]
    rows: tuple[EpochRow, ...]
    identity: dict[str, Any]


class Aside:
    """A copy of all that the next epoch starts from, taken at once where it lies, and brought to the CPU when called.

    Any thread may call it, one at a time. Work that a GPU is given meanwhile neither waits for it nor changes it: it is
    brought on `stream`, one of the GPU's that does nothing else. Of the optimizer that is the state of each parameter
    but no settings, since learning rates follow from the schedule's plan.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        state = optimizer.state_dict()["state"]
        carried = {"model": dict(model.state_dict()), "optimizer": state, "scaler": scaler.state_dict()}
        try:
            self._copies: dict[str, Any] = _each_tensor(carried, lambda tensor: tensor.detach().clone())
        except torch.OutOfMemoryError:  # then training waits
            self._copies = _each_tensor(carried, lambda tensor: tensor.detach().to("cpu", copy=True))
        self._stream = stream
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))

    def __call__(self) -> dict[str, Any]:
        """The state, in tensors on the CPU."""
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                landing = _each_tensor(self._copies, _on_its_way)
            self._stream.synchronize()  # from here on the copies on the device may be freed, and written to by others
            self._copies, self._stream = landing, None
        return self._copies


def _on_its_way(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":  # as the number of steps is for some optimizers
        return tensor
    # A GPU copies to pinned memory by itself.
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _each_tensor(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same mappings, sequences and values with every tensor changed."""
    if isinstance(tree, Mapping):
        return {key: _each_tensor(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):  # as an optimizer of one's own may keep them
        changed = [_each_tensor(value, change) for value in tree]
        return changed if isinstance(tree, list) else tuple(changed)
    return change(tree) if isinstance(tree, Tensor) else tree


def restore(learned: Mapping[str, Any], model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Put what `Aside` gives back; the optimizer keeps the settings, learning rates among them, that it has now."""
    model.load_state_dict(learned["model"])
    own = optimizer.state_dict()
    if not _copied(own["state"], learned["optimizer"]):
        optimizer.load_state_dict({**own, "state": learned["optimizer"]})
    if learned["scaler"]:
        scaler.load_state_dict(learned["scaler"])


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

    Returns its size in bytes. `durable` and raises as `files.write_atomic`.
    """
    others = {"epoch": state.epoch, "rows": [asdict(row) for row in state.rows], "identity": state.identity}
    content = {**state.learned, **others}
    return save_tensors(path, {"format": _FORMAT, "digest": digest(content), **content}, durable)


def save_tensors(path: Path, value: Any, durable: bool = True) -> int:
    """Write what `torch.load` reads, atomically, and return its size in bytes; raises as `files.write_atomic`."""
    # torch.save would hide a full disk behind an error of its own.
    content = io.BytesIO()
    torch.save(value, content)
    write_atomic(path, content.getbuffer(), durable)
    return content.getbuffer().nbytes


class DamagedCheckpointError(Exception):
    """A checkpoint file that cannot be read or whose content is not what was written."""


def load_state(path: Path) -> TrainState:
    """Read a state and check its digest.

    Raises:
        DamagedCheckpointError: when anything about the file is wrong.
    """
    try:
        with open_file(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        form, expected = content.pop("format"), content.pop("digest")
        if form != _FORMAT:
            raise DamagedCheckpointError(f"{path}: has format {form}, this version reads {_FORMAT}")
        if digest(content) != expected:
            raise DamagedCheckpointError(f"{path}: the content does not match its checksum")
        epoch, identity = content.pop("epoch"), content.pop("identity")
        rows = content.pop("rows")
        if not _is_state(epoch, content, rows, identity):
            raise DamagedCheckpointError(f"{path}: does not hold what a state does")
        return TrainState(epoch, content, tuple(EpochRow(**row) for row in rows), identity)
    except DamagedCheckpointError:
        raise
    except pickle.UnpicklingError:  # torch's own words advise to load it with the check switched off
        raise DamagedCheckpointError(f"{path}: is damaged, or holds more than tensors and plain values") from None
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise DamagedCheckpointError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


_ROWS = TypeAdapter(list[EpochRow])


def _is_state(epoch: object, learned: Mapping[str, object], rows: Any, identity: object) -> bool:
    """Whether values are of their kinds; a digest says only that they are those that somebody wrote."""
    try:
        _ROWS.validate_json(json.dumps(rows), strict=True)
    except ValueError:  # pydantic's, too
        return False
    parts = (identity, *(learned.get(name) for name in ("model", "optimizer", "scaler")))
    return type(epoch) is int and [row["epoch"] for row in rows] == [*range(epoch)] and all(map(_is_mapping, parts))


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _copied(own: dict[int, dict[str, Any]], other: Mapping[int, Mapping[str, Any]]) -> bool:
    """Copy another optimizer state into the tensors of this one, which a recorded CUDA graph reads and writes.

    False, with nothing done, where the two do not hold the same tensors, as before the first step.
    """
    entries = ((own.get(index, {}), entry) for index, entry in other.items())
    pairs: list[tuple[Any, Any]] = [(here.get(name), entry[name]) for here, entry in entries for name in entry]
    if not all(isinstance(tensor, Tensor) for pair in pairs for tensor in pair):
        return False
    for there, value in pairs:
        there.copy_(value)
    return bool(pairs)


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
