"""Ratios of rounds, and whether everyone did the same work: plain arithmetic on results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.benchmarks.work import Result

# Other shuffles and crops move the mean loss of an epoch by a few per cent; a step left out, or a cheaper one, by more.
LOSS_RELATIVE, LOSS_ABSOLUTE = 0.15, 0.05


@dataclass(frozen=True)
class Spread:
    """Median and extremes over rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        median, low, high = (f"{x:.2f}" if x >= 0.1 else f"{x:.2g}" for x in (self.median, self.min, self.max))
        return f"{median} ({low} to {high})"


def ratios(above: Sequence[float | None], below: Sequence[float | None]) -> Spread | None:
    """The quotients round by round, over the rounds that both finished (None: not); nothing where there is none."""
    pairs = zip(above, below, strict=False)
    found = [a / b for a, b in pairs if a is not None and b is not None]
    return Spread.of(found) if found else None


def wrong_work(results: Mapping[str, Sequence[Result]], compared: Sequence[str], images: int, steps: int) -> list[str]:
    """A sentence for each contestant that trained other than `images` images in `steps` steps, or whose loss is not
    like that of the others: the `compared` ones must lie within 15 % or 0.05 nats of the median of them all."""
    found = []
    for name, rounds in results.items():
        counts = {(result.images, result.steps) for result in rounds}
        if other := counts - {(images, steps)}:
            what = ", ".join(f"{i:,} images in {s:,} steps" for i, s in sorted(other))
            found.append(f"{name} trained {what}; must be {images:,} in {steps:,}")
    losses = {
        name: statistics.median(result.loss for result in results[name]) for name in compared if results.get(name)
    }
    if not losses:
        return found
    middle = statistics.median(losses.values())
    allowed = max(LOSS_ABSOLUTE, LOSS_RELATIVE * middle)
    for name, loss in losses.items():
        if not abs(loss - middle) <= allowed:
            found.append(f"{name} has the loss {loss:.3f}; must be {middle:.3f} (the median of all) +- {allowed:.3f}")
    return found
