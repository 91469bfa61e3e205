"""Fixtures that several test files use."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.small_runs import SMALL, SmallRun, compose_once, undrawn

from harness.runs.request import Request
from harness.runs.run import run


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs draw only in tests marked `draws`, and in processes that a test starts."""
    with nullcontext() if request.node.get_closest_marker("draws") else undrawn():
        yield


@pytest.fixture
def small_run() -> SmallRun:
    """Run SMALL with further overrides in a folder and return its summary; `resume=True` continues a run there."""

    def start(folder: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
        keys = {override.partition("=")[0] for override in overrides}
        base = [override for override in SMALL if override.partition("=")[0] not in keys]
        # An override of a group's key goes only with the group that has it.
        for group, key in (("scheduler", "scheduler.milestones=[2]"), ("model", "model.channels=[8]")):
            if group in keys and key in base:
                base.remove(key)
        config, name = compose_once(*base, *overrides)
        return run(Request(config, name, folder, resume)).content()

    return start
