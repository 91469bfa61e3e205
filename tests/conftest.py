"""Fixtures that several test files use."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Nothing here imports torch before a test needs it: the process that hands tests to others runs none.
# In all processes one thread each: trainings side by side, each with a thread for every core, slow each other down.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says more of what else the machine is doing than of the code.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

# Their tests take up to ten seconds each, most of it in processes of their own.
SLOW_FILES = {
    Path(__file__).parent / name
    for name in (
        "app/test_sweep.py", "app/test_train.py", "report/test_browser.py", "report/test_report.py",
        "report/test_tensorboard.py", "runs/test_resume.py", "stages/test_sharing.py", "test_campaigns.py",
    )
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `fast` whatever is neither in a slow file nor marked `slow` or `draws`."""
    if missing := [str(path) for path in SLOW_FILES if not path.exists()]:
        raise pytest.UsageError(f"SLOW_FILES in tests/conftest.py names what is not there: {', '.join(missing)}")
    for item in items:
        if item.path not in SLOW_FILES and not {"slow", "draws"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("fast")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Say the seed of the tests' order where one failed: pytest-randomly says it in a header that -q hides."""
    seed = config.getoption("randomly_seed", None)
    if exitstatus and seed is not None:
        terminalreporter.write_line(f"the same order again: --randomly-seed={seed}")


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs draw only in tests marked `draws`, and in processes that a test starts."""
    from support.small_runs import undrawn

    with nullcontext() if request.node.get_closest_marker("draws") else undrawn():
        yield


@pytest.fixture
def small_run() -> Callable[..., dict[str, Any]]:
    """Run SMALL with further overrides in a folder and return its summary; `resume=True` continues a run there."""
    from support.small_runs import SMALL, compose_once

    from harness.runs.request import Request
    from harness.runs.run import run

    def start(folder: Path, *overrides: str, resume: bool = False, sharing: Any = None) -> dict[str, Any]:
        keys = {override.partition("=")[0] for override in overrides}
        base = [override for override in SMALL if override.partition("=")[0] not in keys]
        # An override of a group's key goes only with the group that has it.
        for group, key in (("scheduler", "scheduler.milestones=[2]"), ("model", "model.channels=[8]")):
            if group in keys and key in base:
                base.remove(key)
        config, name = compose_once(*base, *overrides)
        return run(Request(config, name, folder, resume, sharing)).content()

    return start
