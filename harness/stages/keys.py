"""Names of training states: `key[0]` is a run's identity, `key[e + 1]` follows from `key[e]` and the rates of epoch e.

Two runs have the same key at a boundary between epochs if, and only if, everything that can change their bits was the
same up to there. Neither the schedule's name nor the number of epochs is in it, only the rates that were really used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def root(identity: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of an identity of plain values; the order of its keys does not matter.

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
