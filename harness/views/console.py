"""What a person at a terminal sees, or a log file in its place."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import rich
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from harness.errors import UserError, printable
from harness.record import EpochRow
from harness.training.plan import rates_text

T = TypeVar("T")
log = logging.getLogger(__name__)

_ERRORS = Console(stderr=True)
_SECONDS_BETWEEN_LINES = 0.5


@dataclass
class Job:
    """A job of a sweep while it runs: `job 3 of 15`, what it is, its log, and how many warnings it had."""

    number: str
    title: str
    log_file: Path
    warnings: int = 0


# Logging is set up for the whole process, and so is what of it is shown.
_jobs: list[Job] = []
_warned: set[str] = set()


@contextmanager
def shown_as(job: Job) -> Iterator[Job]:
    """While entered, the console has this job's errors, and its warnings unless an earlier job had the same.

    What else it logs is for its log file, unless the record has a true `is_news`.
    """
    _jobs.append(job)
    try:
        yield job
    finally:
        _jobs.pop()


def say(line: str) -> None:
    """Print a line as it is, above a live progress bar."""
    _print(rich.get_console(), line)


class DatedFormatter(logging.Formatter):
    """Lines of a log file."""

    def format(self, record: logging.LogRecord) -> str:
        """One message with its time and level, and a traceback where there is one."""
        return printable(super().format(record))


class ConsoleHandler(logging.Handler):
    """Prints log messages through rich's shared console, above a live progress bar; errors go to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message; warnings and errors are marked."""
        message = record.getMessage()
        if _jobs and not (_is_shown(_jobs[-1], record.levelno, message) or getattr(record, "is_news", False)):
            return
        text = f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message
        if _jobs:
            text = f"{_jobs[-1].number} {_jobs[-1].title}  {text}"
        if record.exc_info:
            text = _explained(record.exc_info, text)
        style = {logging.WARNING: "yellow", logging.ERROR: "bold red"}.get(record.levelno)
        _print(_ERRORS if record.levelno >= logging.ERROR else rich.get_console(), text, style)


class JobLogHandler(logging.FileHandler):
    """A job's log file, which is touched once the job's folder is found to be its own; until then records wait."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self._waiting: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message, or keep it."""
        if self._waiting is None:
            super().emit(record)
        else:
            self._waiting.append(record)

    def write_from_now_on(self) -> None:
        """Write what was kept, and what comes; nothing through a link, as a folder of somebody else's may hold."""
        if Path(self.baseFilename).is_symlink():
            return
        if self.stream is None:
            self.stream = self._open()  # where that fails, what is said of it must not be written there
        waiting, self._waiting = self._waiting or [], None
        for record in waiting:
            super().emit(record)


def _is_shown(job: Job, level: int, message: str) -> bool:
    if level != logging.WARNING:
        return level > logging.WARNING
    job.warnings += 1
    is_new = message not in _warned
    _warned.add(message)
    return is_new


def _explained(error: Any, text: str) -> str:
    """The traceback of an unforeseen error; in a sweep its kind, and where the traceback is."""
    if not _jobs:
        return logging.Formatter().formatException(error)
    return f"{text} ({error[0].__name__}; traceback in {_jobs[-1].log_file})"


def _print(console: Console, text: str, style: str | None = None) -> None:
    try:
        console.print(printable(text), style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output: cannot be written: {error.strerror or error}") from None


class EpochDisplay:
    """A live bar on a terminal; a line an epoch, but not more than two a second, where output is no terminal.

    In a job of a sweep the lines go to its log file, and the bar vanishes when the job ends.

    The bar moves with every batch. Loss and accuracy on it are those of the last finished epoch, since reading them
    earlier would make the GPU wait.
    """

    def __init__(self, epochs: int, batches: int) -> None:
        self.epochs, self.batches = epochs, batches
        self._seconds: list[float] = []
        self._last_line: float | None = None
        self._bar: Progress | None = None
        if rich.get_console().is_terminal:
            title, numbers = "{task.description}", "{task.fields[numbers]}"
            columns = (TextColumn(title, markup=False), BarColumn(10), TextColumn(numbers, markup=False))
            self._bar = Progress(*columns, transient=bool(_jobs))

    def __enter__(self) -> EpochDisplay:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.batches, numbers="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def track(self, epoch: int, batches: Iterable[T]) -> Iterator[T]:
        """Pass the batches of an epoch through while the bar moves."""
        if self._bar is None:
            yield from batches
            return
        where = printable(f"{_jobs[-1].number} {_jobs[-1].title}  ", kept="") if _jobs else ""
        self._bar.update(self._task, completed=0, description=f"{where}epoch {epoch}/{self.epochs - 1}")
        for batch in batches:
            yield batch
            self._bar.advance(self._task)

    def finished(self, row: EpochRow) -> None:
        """Show an epoch's line of metrics.jsonl."""
        self._seconds.append(row.seconds or 0.0)
        left = (self.epochs - 1 - row.epoch) * sum(self._seconds) / len(self._seconds)
        ending = f"lr {rates_text(row.lr)}  {row.images_per_second or 0.0:,.0f} img/s  {clock(left)} left"
        if self._bar is not None:
            # Short enough for a terminal of 80 columns.
            numbers = f"loss {_loss(row.train_loss)}  val {row.val_accuracy:.2%}  {ending}"
            self._bar.update(self._task, numbers=f"val {row.val_accuracy:.2%}" if _jobs else numbers)
        if (self._bar is None or _jobs) and self._wants_line(row.epoch):
            scores = (
                f"train {_loss(row.train_loss)} {row.train_accuracy:.2%}  "
                f"val {_loss(row.val_loss)} {row.val_accuracy:.2%}"
            )
            width = len(str(self.epochs - 1))
            log.info("epoch %*d/%d  %s  %s", width, row.epoch, self.epochs - 1, scores, ending)

    def _wants_line(self, epoch: int) -> bool:
        now = time.monotonic()
        if self._last_line is not None and now - self._last_line < _SECONDS_BETWEEN_LINES and epoch < self.epochs - 1:
            return False
        self._last_line = now
        return True


def _loss(value: float | None) -> str:
    if value is None:
        return "nan"
    return f"{value:.4f}" if value < 1000 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """A time as `0:42` or `1:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
