"""The command line of train.py as a value, with what its user need not type."""

from __future__ import annotations

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
        """From the arguments. `+plan_only=` is read as `plan_only=`: the key was not always in the configuration."""
        return CommandLine(tuple(text[1:] if text.startswith("+plan_only=") else text for text in arguments))

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
        return [o.text.partition("=")[2].strip("'\"") for o in self.overrides if o.text.startswith(f"{key}=")]

    def beside(self, *more: str) -> CommandLine:
        """With more overrides before the first one; the parser wants all of them in one row."""
        texts = self.arguments
        first = next((i for i, text in enumerate(texts) if not text.startswith("-") and "=" in text), 0)
        return CommandLine((*texts[:first], *more, *texts[first:]))

    def resumed(self) -> CommandLine:
        """For `resume=FOLDER`, the overrides that the run was begun with, then the given ones, in that run's folder.

        Hydra's own record in the folder is left as it is until the run was found fit to continue.

        Raises:
            UserError: when FOLDER holds no run.
        """
        folders = [value for value in self.values("resume") if value not in _MODES]
        if not folders or self.is_multirun:
            return self
        folder = Path(folders[-1])
        if not (folder / OVERRIDES).is_file():
            raise UserError(
                f"resume={folder}: must be auto, never or the folder of a run (there is no {folder / OVERRIDES})"
            )
        begun = [Override.parse(text) for text in yaml.safe_load((folder / OVERRIDES).read_text()) or []]
        given = {override.key for override in self.overrides} | {"resume"}
        kept = [override.text for override in begun if override.key not in given]
        others = CommandLine(tuple(text for text in self.arguments if not text.startswith("resume=")))
        place = quoted(folder)
        return others.beside(*kept, f"resume={place}", f"hydra.run.dir={place}", "hydra.output_subdir=null")

    def with_short_names(self) -> CommandLine:
        """With those settings kept out of the folder names of a sweep, but for the schedule, that all jobs share."""
        shared = [o.key for o in self.overrides if "=" in o.text and not o.is_sweep and o.key != "scheduler"]
        shared = [key for key in dict.fromkeys(shared) if not key.startswith("hydra.") and "=" not in key]
        return self.beside(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]") if shared else self


def quoted(path: Path) -> str:
    """A path for Hydra's grammar, which reserves some signs that the folders of a sweep have in their names."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
