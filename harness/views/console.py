"""What a person at a terminal sees, or a log file in its place."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import rich
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from harness.record import EpochRow
from harness.training.plan import rates_text

T = TypeVar("T")
log = logging.getLogger(__name__)

_ERRORS = Console(stderr=True)
_SECONDS_BETWEEN_LINES = 0.5


class ConsoleHandler(logging.Handler):
    """Prints log messages through rich's shared console, above a live progress bar; errors go to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message; warnings and errors are marked."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        style = {logging.WARNING: "yellow", logging.ERROR: "bold red"}.get(record.levelno)
        console = _ERRORS if record.levelno >= logging.ERROR else rich.get_console()
        text = prefix + record.getMessage()
        if record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
        console.print(text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


class EpochDisplay:
    """A live bar on a terminal; a line an epoch, but not more than two a second, where output is no terminal.

    The bar moves with every batch. Loss and accuracy on it are those of the last finished epoch, since reading them
    earlier would make the GPU wait.
    """

    def __init__(self, epochs: int, batches: int) -> None:
        self.epochs, self.batches = epochs, batches
        self._seconds: list[float] = []
        self._last_line: float | None = None
        self._bar: Progress | None = None
        if rich.get_console().is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(10), TextColumn("{task.fields[numbers]}"))
            self._bar = Progress(*columns)

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
        self._bar.update(self._task, completed=0, description=f"epoch {epoch}/{self.epochs - 1}")
        for batch in batches:
            yield batch
            self._bar.advance(self._task)

    def finished(self, row: EpochRow) -> None:
        """Show an epoch's line of metrics.jsonl."""
        self._seconds.append(row.seconds or 0.0)
        left = (self.epochs - 1 - row.epoch) * sum(self._seconds) / len(self._seconds)
        ending = f"lr {rates_text(row.lr)}  {row.images_per_second or 0.0:,.0f} img/s  {_clock(left)} left"
        if self._bar is not None:
            # Short enough for a terminal of 80 columns.
            numbers = f"loss {_loss(row.train_loss)}  val {row.val_accuracy:.2%}  {ending}"
            self._bar.update(self._task, numbers=numbers)
        elif self._wants_line(row.epoch):
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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
