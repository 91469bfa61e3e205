"""Measurements in processes of their own, and the record of the machine that they ran on."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.errors import UserError
from harness.machine import cpu_name, usable_cores, versions

ROOT = Path(__file__).resolve().parent.parent.parent
_SCRIPT = ROOT / "scripts" / "benchmark.py"


class MeasurementError(Exception):
    """A measuring process that failed; the message is the end of what it said."""


def measured(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What `benchmark.py command arguments` prints as JSON on its last line.

    Raises:
        MeasurementError: when the process fails.
    """
    line = [sys.executable, str(_SCRIPT), command, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasurementError(f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def parser(command: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A command's parser with what all of them take."""
    made = argparse.ArgumentParser(
        prog=f"benchmark.py {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("overrides", nargs="*", help="as for train.py, such as model=resnet20 batch_size=256")
    made.add_argument("--rounds", type=int, default=rounds, help=f"turns of everything (default: {rounds})")
    made.add_argument("--output", type=Path, default=Path(f"benchmark_{command}.json"), help="the results as JSON")
    return made


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with overrides anywhere among them.

    Raises:
        UserError: for fewer than one round.
    """
    options = parser.parse_intermixed_args(list(arguments))
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds}: must be 1 or more")
    return options


def wide_console() -> Console:
    """A console for tables, which do not fit into the 80 columns that a file or a pipe is given."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def record() -> dict[str, Any]:
    """Date, processor, cores and versions of all that is compared."""
    packages = {"lightning": None, "timm": None, "hydra-core": None, "numpy": None}
    for name in packages:
        packages[name] = _version(name)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "versions": {**versions(), **packages},
    }


def turns(names: Sequence[str], number: int) -> list[str]:
    """The order of one round: each begins one place further on, so that no one always comes first."""
    shift = number % len(names)
    return [*names[shift:], *names[:shift]]


def _version(package: str) -> Any:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
