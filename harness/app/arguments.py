"""The command line of train.py as a value, with what its user need not type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.errors import UserError
from harness.record import OVERRIDES

_MODES = ("auto", "never", "null")


@dataclass(frozen=True)
class Override:
    """One `key=value` as it was typed; `key` may be a config group's name, and is the text of what is no override."""

    text: str
    key: str
    is_sweep: bool

    @staticmethod
    def parse(text: str) -> Override:
        """Read it by Hydra's grammar; what is wrong with it Hydra will say when it comes there itself."""
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException:
            return Override(text, text, False)
        return Override(text, str(parsed.key_or_group), parsed.is_sweep_override())


@dataclass(frozen=True)
class CommandLine:
    """What follows `python train.py`: flags, which begin with a dash, and overrides, in the order they were typed."""

    arguments: tuple[str, ...]

    @staticmethod
    def parse(arguments: Sequence[str]) -> CommandLine:
        """From the arguments, without the plus signs of `resume` and of `plan_only`, which was not always a key."""
        plus = re.compile(r"^(\+(?=plan_only=)|\+{1,2}(?=resume=))")
        return CommandLine(tuple(plus.sub("", text) for text in arguments))

    @cached_property
    def overrides(self) -> tuple[Override, ...]:
        """The overrides; so are arguments that follow a flag as its value, whose keys nobody asks for."""
        return tuple(Override.parse(text) for text in self.arguments if not text.startswith("-"))

    @property
    def is_multirun(self) -> bool:
        """Whether Hydra is asked for a multirun by a flag."""
        return any(text in ("-m", "--multirun") for text in self.arguments)

    def values(self, key: str) -> list[str]:
        """What was typed behind `key=`, in order, without quotes around it."""
        texts = [o.text.partition("=")[2] for o in self.overrides if o.text.startswith(f"{key}=")]
        return [re.sub(r"^(['\"])(.*)\1$", r"\2", text) for text in texts]

    def beside(self, *more: str) -> CommandLine:
        """With more overrides before the first one; the parser wants all of them in one row."""
        texts = self.arguments
        first = next((i for i, text in enumerate(texts) if not text.startswith("-") and "=" in text), 0)
        return CommandLine((*texts[:first], *more, *texts[first:]))

    def resumed(self) -> CommandLine:
        """For `resume=FOLDER`, the overrides that the run was begun with, then the given ones, in that run's folder.

        The settings of a schedule go with it when another one is given. Hydra's own record in the folder is left as it
        is until the run was found fit to continue.

        Raises:
            UserError: when FOLDER holds no run, or its record is damaged.
        """
        folders = [value for value in self.values("resume") if value not in _MODES]
        if not folders or self.is_multirun:
            return self
        folder = Path(folders[-1])
        if not (folder / OVERRIDES).is_file():
            raise UserError(
                f"resume={folder}: must be auto, never or the folder of a run (there is no {folder / OVERRIDES})"
            )
        begun = CommandLine(tuple(_recorded(folder)))
        given = {override.key for override in self.overrides} | {"resume"}
        wanted = self.values("scheduler")
        gone = "scheduler." if wanted and wanted[-1:] != begun.values("scheduler")[-1:] else None
        kept = [o.text for o in begun.overrides if o.key not in given and not (gone and o.key.startswith(gone))]
        others = CommandLine(tuple(text for text in self.arguments if not text.startswith("resume=")))
        place = quoted(folder)
        here = [f"resume={place}", f"hydra.run.dir={place}", "hydra.output_subdir=null"]
        # A job of a sweep that an experiment's file asks for is one run now.
        return others.beside(*kept, *here, *([] if "hydra.mode" in given else ["hydra.mode=RUN"]))

    def with_short_names(self) -> CommandLine:
        """With those settings kept out of the folder names of a sweep, but for the schedule, that all jobs share."""
        shared = [o.key for o in self.overrides if "=" in o.text and not o.is_sweep and o.key != "scheduler"]
        shared = [key for key in dict.fromkeys(shared) if not key.startswith("hydra.") and "=" not in key]
        return self.beside(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]") if shared else self


def _recorded(folder: Path) -> list[str]:
    """The overrides that a run was begun with, by Hydra's record in its folder."""
    try:
        texts = yaml.safe_load((folder / OVERRIDES).read_text()) or []
    except (yaml.YAMLError, UnicodeDecodeError):
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"resume={folder}: {folder / OVERRIDES} is damaged; must be a list of overrides")
    return texts


def quoted(path: Path) -> str:
    """A path for Hydra's grammar, which reserves some signs that the folders of a sweep have in their names.

    A backslash is one there but where it, or a row of them, stands before a quotation mark.
    """
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(path)) + "'"
