"""Measurements in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from harness.errors import UserError
from harness.files import PACKAGE

ROOT = PACKAGE.parent
BENCHMARK = ROOT / "scripts" / "benchmark.py"


class MeasurementError(UserError):
    """A measuring process that failed; the message is the end of what it said."""


def measured(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What `benchmark.py command arguments` prints as JSON on its last line.

    Raises:
        MeasurementError: when the process fails.
    """
    said = output([sys.executable, str(BENCHMARK), command, *arguments])
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


def output(line: Sequence[str]) -> str:
    """What this command line prints.

    Raises:
        MeasurementError: when it fails.
    """
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasurementError(f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
