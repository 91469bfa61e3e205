"""Names of training states: `key[0]` follows from the settings, `key[e + 1]` from `key[e]` and the rates of epoch e.

A state is filed under `<circumstances>/<key>`, so that a sweep knows its states by their keys before any job has read
data or chosen a device. Two runs have the same name at a boundary between epochs if, and only if, everything that can
change their bits was the same up to there. Neither the schedule's name nor the number of epochs is in it, only the
rates that were really used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# How the names of that part of an identity begin which is known only where the run is.
_CIRCUMSTANCES = ("data.fingerprint", "data.normalisation", "environment.", "precision", "versions.")


def names(identity: Mapping[str, Any], epochs: Iterable[Mapping[str, float]]) -> list[str]:
    """The names of a run's states at all boundaries, from each epoch's learning rate by parameter group."""
    circumstances = {name: value for name, value in identity.items() if name.startswith(_CIRCUMSTANCES)}
    settings = {name: value for name, value in identity.items() if name not in circumstances}
    return [f"{root(circumstances)[:32]}/{key}" for key in chain(root(settings), epochs)]


def names_of(identity: Mapping[str, Any], epochs: Sequence[Mapping[str, float]]) -> tuple[str, str]:
    """The name of the state after these epochs, and the one that it had in earlier versions."""
    return names(identity, epochs)[-1], chain(root(identity), epochs)[-1]


def root(identity: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a mapping of plain values; the order of its keys does not matter.

    Raises:
        ValueError: for NaN and infinities.
    """
    text = json.dumps(identity, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def chain(start: str, epochs: Iterable[Mapping[str, float]]) -> list[str]:
    """The keys at all boundaries, `start` first, from each epoch's learning rate by parameter group."""
    keys = [start]
    for rates in epochs:
        exact = ",".join(f"{group}={float(rate).hex()}" for group, rate in sorted(rates.items()))
        keys.append(hashlib.sha256(f"{keys[-1]} {exact}".encode()).hexdigest())
    return keys
