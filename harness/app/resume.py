"""`resume=FOLDER`: a run goes on with the settings of its own record, and with no others unless they are typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from harness.app.arguments import MODES, CommandLine, Override, quoted
from harness.app.compose import CONFIG_DIR
from harness.config import Config, Role
from harness.errors import UserError
from harness.files import read_file, read_object, read_sealed
from harness.record import EARLIER_OVERRIDES, REQUEST_FILE, RUN_FILE, RequestRecord, flatten

# What may be chosen of a config group: a name, perhaps in folders below the group's.
_CHOICE = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


def resumed(line: CommandLine) -> CommandLine:
    """For `resume=FOLDER`, the overrides that the run was begun with, then the given ones, in that run's folder.

    The settings of a schedule go with it when another one is given. Packages whose code may run are not taken from a
    folder: `allow` has to be given again.

    Raises:
        UserError: when FOLDER holds no run, or its record is damaged.
    """
    folders = [value for value in line.values("resume") if value not in MODES]
    if not folders or line.is_multirun:
        return line
    folder = Path(folders[-1])
    begun = CommandLine(tuple(record_of(folder).overrides))
    given = {override.key for override in line.overrides} | {"resume"}
    wanted = line.values("scheduler")
    gone = "scheduler." if wanted and wanted[-1:] != begun.values("scheduler")[-1:] else None
    kept = [
        o.text for o in begun.overrides if not (o.key in given or _is_allow(o) or (gone and o.key.startswith(gone)))
    ]
    others = CommandLine(tuple(text for text in line.arguments if not text.startswith("resume=")))
    place = quoted(folder)
    # A job of a sweep that an experiment's file asks for is one run now.
    here = [f"resume={place}", f"hydra.run.dir={place}", *([] if "hydra.mode" in given else ["hydra.mode=RUN"])]
    return others.beside(*kept, *here)


def record_of(folder: Path) -> RequestRecord:
    """What the run in the folder was asked for.

    Raises:
        UserError: when there is no run, and when its record is damaged, or holds what no run of ours writes there.
    """
    if (folder / REQUEST_FILE).exists():
        values: Any = read_sealed(folder / REQUEST_FILE)
    elif (folder / EARLIER_OVERRIDES).exists() and (folder / RUN_FILE).exists():
        values = _earlier(folder)
    else:
        raise UserError(f"resume={folder}: must be auto, never or the folder of a run (there is no {REQUEST_FILE})")
    try:
        record = TypeAdapter(RequestRecord).validate_python(values)
    except ValidationError:
        record = None
    if record is None or not all(map(_is_setting, record.overrides)):
        raise UserError(
            f"resume={folder}: the run's record of its settings is damaged, so they have to be given again: "
            f"python train.py SETTINGS resume=auto hydra.run.dir={quoted(folder)}"
        )
    return record


def check_agreement(folder: Path, config: Config, overrides: Sequence[str]) -> None:
    """Refuse to go on with settings that are neither the run's nor typed: a file below conf/ may have changed since.

    `overrides` are those that gave `config`, the run's own among them.

    Raises:
        UserError: naming each setting with its old and its new value.
    """
    record = record_of(folder)
    typed = [override.key.replace("/", ".") for override in map(Override.parse, overrides)
             if override.text not in record.overrides]  # fmt: skip
    if "experiment" in typed:  # may set anything
        return
    # What changes no bits, and where data lie, may be another thing on another machine.
    now = flatten(json.loads(json.dumps(config.plain(Role.NO_BITS, Role.PLACE))))
    begun = flatten(record.config)
    lines = [
        f"{key}={now.get(key)}: so say the files below conf/ now; the run was begun with {begun.get(key)}; must be "
        "given on the command line, one or the other"
        for key in _compared(now, begun)
        if now.get(key) != begun.get(key) and not _is_covered(key, typed)
    ]
    if lines:
        raise UserError(f"resume={folder}: conf/ has changed since the run was begun\n" + "\n".join(lines))


def _compared(now: dict[str, Any], begun: dict[str, Any]) -> Iterable[str]:
    """The settings of both; where one has more of a class's arguments, which have no defaults here, those too."""
    open_ended = ("scheduler.", "optimizer.", "augment.")
    known = set(now) & set(begun)
    return sorted(known | {key for key in set(now) ^ set(begun) if key.startswith(open_ended)})


def _is_covered(key: str, typed: Iterable[str]) -> bool:
    """Whether a typed override is of this setting, of what it lies in, or of something in it."""
    return any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in typed)


def _is_allow(override: Override) -> bool:
    """Whether it says whose code may run; a list's entry, `allow.0`, may be set in place of one from conf/."""
    return override.key.partition(".")[0] == "allow"


def _is_setting(text: str) -> bool:
    """Whether an override of a record can be one of the program's settings; Hydra's own could run code.

    So could those that a file brings that is chosen by its path, out of conf/ and into the folder itself.
    """
    override = Override.parse(text)
    if override.reaches_hydra or override.is_sweep or text.startswith("-"):
        return False
    is_group = override.has_package or "/" in override.key or (CONFIG_DIR / override.key).is_dir()
    return not is_group or all(map(_CHOICE.fullmatch, override.chosen))


def _earlier(folder: Path) -> dict[str, Any] | None:
    """The same from Hydra's record and run.json, in a run from before there was a record of ours."""
    record = read_object(folder / RUN_FILE)
    try:
        overrides = yaml.safe_load(read_file(folder / EARLIER_OVERRIDES)) or []
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return {"scheduler": record.get("scheduler"), "overrides": overrides, "config": record.get("config")}
