"""How often the results of a comparison were looked at: what each look may claim depends on it.

Whoever looks after every few seeds, and stops when there is a claim, would find one sooner or later without any
difference. So the chance of a false claim is spent over the looks: most of it on the first, the rest on all later ones.
Lan, K. K. G., DeMets, D. L. (1983): Discrete sequential boundaries for clinical trials. Biometrika 70, 659-663.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path

from harness.compare.groups import Group
from harness.compare.stats import ALPHA
from harness.files import read_sealed, write_sealed

FILE = "looks.json"
FIRST_SHARE = 0.85

Look = frozenset[str]


def level(number: int) -> float:
    """The chance of any false claim at look `number`, from 1; over all looks it comes to `ALPHA`."""
    if number == 1:
        return ALPHA * FIRST_SHARE
    return ALPHA * (1 - FIRST_SHARE) * 6 / (pi * (number - 1)) ** 2


def look_at(group: Group) -> Look:
    """The runs that are compared, as what a later look at more of them is recognised by."""
    runs = (f"{run.scheduler} {run.seed} {run.weights}" for variant in group.variants for run in variant.runs)
    return frozenset(hashlib.sha256(run.encode()).hexdigest()[:16] for run in runs)


@dataclass(frozen=True)
class Looks:
    """The looks so far, the earliest first."""

    so_far: tuple[Look, ...] = ()

    def number(self, look: Look) -> int:
        """Which look this is, from 1, among those at any of its runs; one at the very same runs is the same look."""
        related = [each for each in self.so_far if each & look]
        return related.index(look) + 1 if look in related else len(related) + 1

    def with_(self, look: Look) -> Looks:
        """These and this one."""
        return self if look in self.so_far else Looks((*self.so_far, look))


def read_looks(folders: Sequence[Path]) -> Looks:
    """The looks that were noted in these folders; where one cannot be read there were none."""
    found = Looks()
    for folder in folders:
        noted = (read_sealed(folder / FILE) or {}).get("looks")
        for runs in noted if isinstance(noted, list) else []:
            if isinstance(runs, list):
                found = found.with_(frozenset(map(str, runs)))
    return found


def write_looks(folder: Path, looks: Looks) -> None:
    """Note the looks in the folder; raises as `files.write_json`."""
    write_sealed(folder / FILE, {"looks": [sorted(look) for look in looks.so_far]})
