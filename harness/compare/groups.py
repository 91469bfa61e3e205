"""Which runs may be compared: groups of equal circumstances, in them schedules, in those one run a seed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.compare.load import Run
from harness.record import flatten


@dataclass(frozen=True)
class Variant:
    """A schedule with its arguments and what else was swept; `runs` holds one counted run a seed, by seed.

    `label` is unique in its group: the schedule's name and the settings in which it differs from its
    namesakes. `arguments` and `settings` are flat: nested keys are joined by dots.
    """

    label: str
    scheduler: str
    target: str
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs, ascending."""
        return tuple(run.seed for run in self.runs if run.seed is not None)


@dataclass(frozen=True)
class Group:
    """Runs that differ in schedule, seed and swept settings alone.

    `identity` is what they share. `differs` gives, for a group kept apart, each key whose value is not that
    of the main group: (main group's value, this group's), None for a key that is absent. `repeats` names runs
    that were left out because an earlier run has the same schedule and seed, with the reason.
    """

    epochs: int
    identity: Mapping[str, Any]
    variants: tuple[Variant, ...]
    differs: Mapping[str, tuple[Any, Any]]
    repeats: Mapping[str, str]

    @property
    def size(self) -> int:
        """Number of runs that count."""
        return sum(len(variant.runs) for variant in self.variants)


def setting_text(value: object) -> str:
    """A setting as a reader would type it: text bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def natural_order(label: str) -> tuple[tuple[str, float], ...]:
    """A sort key by which `step_size=5` comes before `step_size=10`."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return tuple((text, float(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True))


def make_groups(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Group the runs that count; the largest group comes first, of equally large ones the newest."""
    counted = [run for run in runs if run.counts]
    swept = _swept_settings(counted)
    circumstances: dict[str, list[Run]] = defaultdict(list)
    for run in counted:
        circumstances[_canonical([run.epochs, _shared_identity(run, swept)])].append(run)
    groups = [_make_group(members, swept) for members in circumstances.values()]

    def importance(group: Group) -> tuple[int, float]:
        return group.size, max(run.finished for variant in group.variants for run in variant.runs)

    groups.sort(key=importance, reverse=True)
    return tuple(_apart(groups[0], group) if index else group for index, group in enumerate(groups))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _swept_settings(runs: Sequence[Run]) -> set[str]:
    """Optimizer settings and batch size to which a sweep deliberately gave several values.

    They leave data, model and code as they are, so such runs are variants. A setting that merely differs
    between runs of different sweeps keeps them apart.
    """
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        for override in run.overrides:
            key, _, value = override.partition("=")
            values[str(run.folder.parent), key.lstrip("+")].add(value)
    several = {key for (_, key), choices in values.items() if len(choices) > 1}
    varied = {key for key in several if key.startswith("optimizer.") or key == "batch_size"}
    # A parameter group is given as a whole, `{match: ..., lr: ...}`, and is several settings of the identity.
    names = {name for run in runs for name in run.identity}
    return {name for name in names if any(name == key or name.startswith(f"{key}.") for key in varied)}


def _shared_identity(run: Run, swept: set[str]) -> dict[str, Any]:
    own = {"seed", *swept, *(_BY_SPLIT if has_own_split(run) else ())}
    return {key: value for key, value in run.identity.items() if key not in own}


# What follows from which images are the validation images.
_BY_SPLIT = ("data.fingerprint", "data.normalisation")


def has_own_split(run: Run) -> bool:
    """Whether the run's seed chose its validation images."""
    return "data.split_seed" in run.identity and run.identity["data.split_seed"] is None


def _with_the_same_images(runs: Sequence[Run], left_out: dict[str, str]) -> list[Run]:
    """Without those that had other images than the first run to finish with the same seed."""
    first: dict[int | None, Run] = {}
    kept = []
    for run in sorted(runs, key=lambda run: (run.finished, run.name)):
        other = first.setdefault(run.seed, run)
        if any(run.identity.get(key) != other.identity.get(key) for key in _BY_SPLIT):
            left_out[run.name] = f"other images than {other.name}, which has the same seed"
        else:
            kept.append(run)
    return kept


def _make_group(runs: list[Run], swept: set[str]) -> Group:
    def settings_of(run: Run) -> dict[str, Any]:
        return {key: run.identity[key] for key in sorted(swept & run.identity.keys())}

    repeats: dict[str, str] = {}
    families: dict[str, list[Run]] = defaultdict(list)
    for run in _with_the_same_images(runs, repeats):
        families[_canonical([run.scheduler, run.target, run.arguments, settings_of(run)])].append(run)
    variants = []
    for members in families.values():
        first, settings = members[0], settings_of(members[0])
        once = _one_run_a_seed(members, repeats)
        arguments = flatten(first.arguments, lists=True)
        variants.append(Variant(first.scheduler, first.scheduler, first.target, arguments, settings, tuple(once)))
    assert runs[0].epochs is not None  # a run that counts has its number of epochs
    return Group(runs[0].epochs, _shared_identity(runs[0], swept), _labelled(variants), {}, repeats)


def _one_run_a_seed(runs: list[Run], repeats: dict[str, str]) -> list[Run]:
    """Keep the first finished run of each seed, so that no result can be improved by running it again."""
    kept: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (run.finished, run.name)):
        assert run.seed is not None
        first = kept.setdefault(run.seed, run)
        if first is run:
            continue
        same = first.weights == run.weights if first.weights and run.weights else first.log == run.log
        repeats[run.name] = (
            f"a repetition of {first.name} (same schedule, seed and final weights), counted once"
            if same
            else f"same schedule and seed as {first.name}, other weights; the first to finish is counted"
        )
    return [kept[seed] for seed in sorted(kept)]


def _labelled(variants: list[Variant]) -> tuple[Variant, ...]:
    by_name: dict[str, list[Variant]] = defaultdict(list)
    for variant in variants:
        by_name[variant.scheduler].append(variant)
    labelled = []
    for name, namesakes in by_name.items():
        targets = {variant.target for variant in namesakes}
        differing = _differing([variant.arguments for variant in namesakes])
        swept = _differing([variant.settings for variant in variants])
        for variant in namesakes:
            parts = [name]
            if len(targets) > 1:
                parts.append(f"({variant.target.rpartition('.')[2]})")
            parts += _settings_text(variant.arguments, differing) + _settings_text(variant.settings, swept)
            labelled.append(replace(variant, label=" ".join(parts)))
    return tuple(sorted(labelled, key=lambda variant: natural_order(variant.label)))


def _settings_text(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{key}={setting_text(values[key])}" for key in keys if key in values]


def _differing(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that do not have one and the same value in all mappings, in the order of their first appearance."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    texts = {key: {_canonical(mapping[key]) if key in mapping else None for mapping in mappings} for key in keys}
    return [key for key in keys if len(texts[key]) > 1]


def _apart(main: Group, other: Group) -> Group:
    """The group with the keys that keep it from the main one."""
    first = {"epochs": main.epochs, **main.identity}
    second = {"epochs": other.epochs, **other.identity}
    differs = {key: (first.get(key), second.get(key)) for key in _differing([first, second])}
    return replace(other, differs=differs)
