"""train.py as a child process of a case, forked from a process that has imported all, and what it leaves."""

import json
import os
import runpy
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.small_runs import ROOT, read_rows, undrawn, untimed
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

# Runs of well under a second, which differ in what they carry from epoch to epoch.
_SMALL = (
    "data=digits",
    "data.train_size=64",
    "batch_size=48",
    "model.channels=[8]",
    "epochs=8",
    "device=cpu",
    "threads=1",
)
VARIANTS = {
    "adamw": (*_SMALL, "scheduler.milestones=[2,5]", "checkpoint.every=1"),
    "sgd": (*_SMALL, "optimizer=sgd", "scheduler=step", "scheduler.step_size=3", "data.flip=true"),
    "dropout": (*_SMALL, "model.dropout=0.3", "scheduler=onecycle", "checkpoint.every=3"),
    "amsgrad": (*_SMALL, "optimizer.amsgrad=true", "scheduler=cosine", "checkpoint.keep=1", "stages.every=2"),
}
SWEEP = (*_SMALL, "-m", "scheduler=constant,step", "seed=0,1", "checkpoint.every=2", "hydra.sweep.dir=sweep")


@dataclass(frozen=True)
class Ended:
    """The exit status, negative for a signal, and all that was printed."""

    status: int
    text: str

    def expect(self, status: int) -> "Ended":
        """This, if it ended so."""
        assert self.status == status, f"status {self.status} instead of {status}: {self.text}"
        assert "Traceback" not in self.text, self.text
        return self


def train(*arguments: str, prelude: Callable[[], None] = lambda: None, kill_after: float | None = None) -> Ended:
    """Run `train.py arguments` in the working directory; `prelude` is called first in its process.

    Pictures are not drawn: they take longer than all the rest.
    """
    log = Path(f"output-{time.monotonic_ns()}")
    process = os.fork()
    if process == 0:
        _interpret(arguments, log, prelude)
    if kill_after is not None:
        ended = select.poll()
        ended.register(handle := os.pidfd_open(process))
        if not ended.poll(1000 * kill_after):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    text = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return Ended(status, text)


def _interpret(arguments: tuple[str, ...], log: Path, prelude: Callable[[], None]) -> None:
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        sys.argv = [str(ROOT / "train.py"), *arguments]
        prelude()
        with undrawn():
            runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime", "os.link", "os.symlink"}


def on_each_change(do: Callable[[int], None]) -> None:
    """Call `do` with 1, 2, ... before each time that this process changes something below its working directory."""
    here, count, fsync = str(Path.cwd()), 0, os.fsync

    def counted() -> None:
        nonlocal count
        count += 1
        do(count)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and _writes_below(here, *arguments)):
            counted()

    def synced(descriptor: Any) -> None:
        counted()
        fsync(descriptor)

    os.fsync = synced
    sys.addaudithook(hook)


def _writes_below(folder: str, path: object, mode: object, flags: object) -> bool:
    if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR) or not isinstance(path, str | os.PathLike):
        return False
    return str(Path(path).absolute()).startswith(folder)


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run left: what must be the same in any other; how often it changed files, and its seconds."""

    results: dict[str, Any]
    changes: int
    seconds: float


def refer(name: str, *arguments: str, folder: str) -> None:
    """Train undisturbed in the working directory, and note what it left in NAME.json."""
    noted = Path(f"{name}.count").absolute()

    def note() -> None:
        descriptor = os.open(noted, os.O_WRONLY | os.O_CREAT)
        on_each_change(lambda count: os.pwrite(descriptor, str(count).encode(), 0) and None)

    began = time.monotonic()
    train(*arguments, prelude=note).expect(0)
    seconds = time.monotonic() - began
    results = {place.name: left(place) for place in runs_in(Path(folder))}
    assert results, "the undisturbed run left nothing"
    content = {"results": results, "changes": int(noted.read_text()), "seconds": seconds}
    Path(f"{name}.json").write_text(json.dumps(content))


def reference(shared: Path, name: str) -> Reference:
    """What `refer` noted."""
    return Reference(**json.loads((shared / f"{name}.json").read_text()))


def runs_in(folder: Path) -> list[Path]:
    """The folder of a run, or those of a sweep's jobs."""
    return [folder] if (folder / "run.json").exists() else sorted(path.parent for path in folder.glob("*/run.json"))


def left(folder: Path) -> dict[str, Any]:
    """What of a completed run must not depend on what happened to it."""
    summary = json.loads((folder / "summary.json").read_text())
    steps = _steps(folder)
    assert set(steps.values()) == {1}, f"TensorBoard has steps twice: {steps}"
    facts = ("status", "scheduler", "seed", "epochs", "final_val_accuracy", "best_epoch", "test_loss", "weights_sha256")
    rows = [{name: value for name, value in row.items() if name != "reused"} for row in untimed(read_rows(folder))]
    model = summary["files"]["model.pt"]
    return {**{fact: summary[fact] for fact in facts}, "rows": rows, "model": model, "points": len(steps)}


def _steps(folder: Path) -> dict[str, int]:
    """How often each scalar was written for each epoch."""
    counts: dict[str, int] = {}
    for path in folder.glob("events.out.tfevents.*"):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                if (
                    value.WhichOneof("value") in ("tensor", "simple_value")
                    and "/" in value.tag
                    and "_hparams_" not in value.tag
                ):
                    key = f"{value.tag} {event.step}"
                    counts[key] = counts.get(key, 0) + 1
    return counts


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """While entered, `folder` is the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
