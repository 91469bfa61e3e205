"""The command line of train.py as a value, with what its user need not type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_MULTIRUN = ("-m", "--multirun")
MODES = ("auto", "never", "null")


@dataclass(frozen=True)
class Override:
    """One `key=value` as it was typed; `key` may be a config group's name, and is the text of what is no override.

    `reaches_hydra` says whether it is, or may be, about Hydra itself; `chosen` is what it chooses, should its key be a
    config group.
    """

    text: str
    key: str
    is_sweep: bool
    reaches_hydra: bool
    chosen: tuple[str, ...] = ()
    has_package: bool = False

    @staticmethod
    def parse(text: str) -> Override:
        """Read it by Hydra's grammar; what is wrong with it Hydra will say when it comes there itself."""
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException:
            return Override(text, text, is_sweep=False, reaches_hydra=True)
        key = str(parsed.key_or_group)
        parts = re.split(r"[./]", f"{key}.{parsed.package or ''}")
        is_sweep, value = parsed.is_sweep_override(), parsed.value()
        chosen = () if is_sweep or value is None else tuple(map(str, value if isinstance(value, list) else [value]))
        return Override(text, key, is_sweep, "hydra" in parts, chosen, parsed.package is not None)


@dataclass(frozen=True)
class CommandLine:
    """What follows `python train.py`: flags, which begin with a dash, and overrides, in the order they were typed."""

    arguments: tuple[str, ...]

    @staticmethod
    def parse(arguments: Sequence[str]) -> CommandLine:
        """From the arguments, without the plus signs of `resume` and of `plan_only`, which was not always a key.

        A multirun's flag comes first: Hydra's parser takes no overrides before it and behind it.
        """
        plus = re.compile(r"^(\+(?=plan_only=)|\+{1,2}(?=resume=))")
        ordered = sorted(arguments, key=lambda text: text not in _MULTIRUN)
        return CommandLine(tuple(plus.sub("", text) for text in ordered))

    @cached_property
    def overrides(self) -> tuple[Override, ...]:
        """The overrides; so are arguments that follow a flag as its value, whose keys nobody asks for."""
        return tuple(Override.parse(text) for text in self.arguments if not text.startswith("-"))

    @property
    def is_multirun(self) -> bool:
        """Whether Hydra is asked for a multirun by a flag."""
        return any(text in _MULTIRUN for text in self.arguments)

    def values(self, key: str) -> list[str]:
        """What was typed behind `key=`, in order, without quotes around it."""
        texts = [o.text.partition("=")[2] for o in self.overrides if o.text.startswith(f"{key}=")]
        return [re.sub(r"^(['\"])(.*)\1$", r"\2", text) for text in texts]

    def beside(self, *more: str) -> CommandLine:
        """With more overrides before the first one; the parser wants all of them in one row."""
        texts = self.arguments
        first = next((i for i, text in enumerate(texts) if not text.startswith("-") and "=" in text), 0)
        return CommandLine((*texts[:first], *more, *texts[first:]))

    def with_short_names(self) -> CommandLine:
        """With those settings kept out of the folder names of a sweep, but for the schedule, that all jobs share."""
        shared = [o.key for o in self.overrides if "=" in o.text and not o.is_sweep and o.key != "scheduler"]
        shared = [key for key in dict.fromkeys(shared) if not key.startswith("hydra.") and "=" not in key]
        return self.beside(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]") if shared else self


def quoted(path: Path) -> str:
    """A path for Hydra's grammar, which reserves some signs that the folders of a sweep have in their names.

    A backslash is one there but where it, or a row of them, stands before a quotation mark.
    """
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(path)) + "'"
