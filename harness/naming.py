"""What the folder of a sweep's job is called."""

from __future__ import annotations

import re

# Hydra's override_dirname joins overrides with this; conf/config.yaml sets it.
_SEPARATOR = "__"
_LONGEST_NAME = 120


def run_name(override_dirname: str) -> str:
    """A folder name of letters, digits and `=.+-_` from Hydra's `override_dirname`.

    The schedule comes first, by its name alone; its settings lose their prefix, and lists their brackets:
    `scheduler.milestones=[30,80]__scheduler=multistep__seed=0` becomes `multistep_milestones=30-80_seed=0`.
    """
    parts = override_dirname.split(_SEPARATOR)
    schedule = [part.partition("=")[2] for part in parts if part.startswith("scheduler=")]
    others = [part.removeprefix("scheduler.") for part in parts if not part.startswith("scheduler=")]
    bare = (re.sub(r"[\[\]{}()'\" ]", "", part) for part in [*schedule, *others])
    names = (re.sub(r"[^A-Za-z0-9=.+-]+", "-", part) for part in bare)
    return "_".join(name for name in names if name)[:_LONGEST_NAME]
