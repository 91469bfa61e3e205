"""The stage tree of a sweep: which epochs its runs have in common, so that each is trained once.

Hippo (Shin et al., "Hippo: Sharing Computations in Hyper-Parameter Optimization", VLDB 2022) calls such stretches of
epochs stages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from rich.text import Text
from rich.tree import Tree

from harness.stages import keys
from harness.training.plan import LrPlan, rates_text

_NAMES = 6  # runs named on one line of a drawing


@dataclass(frozen=True)
class PlannedRun:
    """A job of a sweep before it runs: a name for people, `identity.settings`, the schedule's plan, and
    `identity.as_asked`, by which runs on two devices, say, are told apart."""

    name: str
    settings: Mapping[str, Any]
    plan: LrPlan
    as_asked: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of its states at all boundaries, `plan.epochs + 1` of them."""
        return self._chain(self.settings)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The boundaries in the tree; those of two runs are the same if the states there will be."""
        return self._chain({**self.settings, **self.as_asked})

    def _chain(self, start: Mapping[str, Any]) -> tuple[str, ...]:
        rates = (self.plan.by_group(epoch) for epoch in range(self.plan.epochs))
        return tuple(keys.chain(keys.root(start), rates))


@dataclass(frozen=True)
class StageTree:
    """All runs of a sweep. Runs are told apart by their position in `runs`."""

    runs: tuple[PlannedRun, ...]

    @property
    def epochs_alone(self) -> int:
        """Epochs to train if every run trained all of its own."""
        return sum(run.plan.epochs for run in self.runs)

    @cached_property
    def epochs_new(self) -> tuple[int, ...]:
        """By run, in their order, the epochs to train that no run before it trains."""
        seen: set[str] = set()
        before = [0]
        for run in self.runs:
            seen.update(run.nodes[1:])
            before.append(len(seen))
        return tuple(after - so_far for so_far, after in pairwise(before))

    @property
    def epochs_shared(self) -> int:
        """Epochs to train if each is trained once."""
        return sum(self.epochs_new)

    @property
    def branch_keys(self) -> frozenset[str]:
        """The keys of the states at the branches."""
        pairs = (pair for run in self.runs for pair in zip(run.nodes, run.keys, strict=True))
        return frozenset(key for node, key in pairs if node in self.branches)

    @cached_property
    def branches(self) -> frozenset[str]:
        """The nodes at which runs part, or at which more than one run, or not every run, ends."""
        ways: dict[str, set[str | None]] = defaultdict(set)
        ends: Counter[str] = Counter()
        for run in self.runs:
            for node, following in zip(run.nodes, (*run.nodes[1:], None), strict=True):
                ways[node].add(following)
            ends[run.nodes[-1]] += 1
        return frozenset(node for node, following in ways.items() if len(following) > 1 or ends[node] > 1)

    def save_at(self, position: int) -> tuple[int, ...]:
        """The epochs, beyond 0, before which a run has to leave its state for others."""
        nodes = self.runs[position].nodes
        return tuple(epoch for epoch, node in enumerate(nodes) if epoch and node in self.branches)

    def drawn(self) -> Tree:
        """The tree for a terminal: a line for each stretch of epochs with its rates and the runs that need it."""
        drawn = Tree(
            f"{len(self.runs)} runs: {self.epochs_alone:,} epochs alone, {self.epochs_shared:,} to train, "
            f"{saving_text(self.epochs_alone, self.epochs_shared)}"
        )
        roots: dict[str, list[PlannedRun]] = defaultdict(list)
        for run in self.runs:
            roots[run.nodes[0]].append(run)
        shapes: dict[tuple[Any, ...], list[list[PlannedRun]]] = defaultdict(list)
        for runs in roots.values():
            shapes[tuple(sorted(run.plan.rates for run in runs))].append(runs)
        for alike in shapes.values():
            first = alike[0]
            times = f"{len(alike)} times (seeds or settings that share nothing), each:" if len(alike) > 1 else "once:"
            self._draw(drawn.add(times), first, 0)
        return drawn

    def _draw(self, parent: Tree, runs: Sequence[PlannedRun], epoch: int) -> None:
        """Add a line for each way on from a boundary, and those that follow it."""
        ways: dict[str, list[PlannedRun]] = defaultdict(list)
        for run in runs:
            if run.plan.epochs > epoch:
                ways[run.nodes[epoch + 1]].append(run)
        for going_on in ways.values():
            first = going_on[0]
            end = epoch + 1
            while end < first.plan.epochs and first.nodes[end] not in self.branches:
                end += 1
            rates = ", ".join(_rates(first.plan, epoch, end))
            names = [run.name for run in going_on]
            more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
            line = f"epochs {epoch} to {end - 1}, lr {rates}: {', '.join(names[:_NAMES])}{more}"
            self._draw(parent.add(Text(line)), going_on, end)


def saving_text(alone: int, shared: int) -> str:
    """What sharing saves, in words."""
    return f"{alone / shared:.2f} times fewer" if shared < alone else "nothing to share"


def _rates(plan: LrPlan, start: int, end: int) -> list[str]:
    """The rates of a stretch of epochs in order; of many only the first and the last."""
    epochs = [start, *(change.epoch for change in plan.changes if start < change.epoch < end)]
    texts = [rates_text(plan.by_group(epoch)) for epoch in epochs]
    return texts if len(texts) <= 3 else [texts[0], "...", texts[-1]]
