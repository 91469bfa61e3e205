"""Processes that need not import torch again: forked from one that has imported all, and has done nothing else."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock


@cache
def forking() -> ForkServerContext:
    """Where such processes come from; the first call in a test process takes some seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.preloaded"])
    # What is preloaded is looked for on Python's own path alone.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


def run_script(script: Path, *arguments: str, folder: Path) -> CompletedProcess[str]:
    """As `python script arguments` in `folder`, but for the imports and for how the interpreter ends."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        files = [DupFd(file.fileno()) for file in (output, errors)]
        process = forking().Process(target=_interpret, args=(script, arguments, folder, dict(os.environ), *files))
        process.start()
        process.join()
        for file in (output, errors):
            file.seek(0)
        return CompletedProcess([str(script), *arguments], process.exitcode, output.read(), errors.read())


def _interpret(
    script: Path, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], output: Any, errors: Any
) -> None:
    for number, file in ((1, output), (2, errors)):
        os.dup2(file.detach(), number)
    # As an interpreter does for what it finds to be no terminal.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
