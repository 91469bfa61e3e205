"""SIGINT and SIGTERM as a request to stop where the run can be continued."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """The run stopped on a signal; the exit status is the shell's, 128 plus the signal's number.

    As a `SystemExit` it also ends a Hydra multirun, whose launcher goes on after ordinary exceptions.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


class Interruption:
    """While it is entered, the first SIGINT or SIGTERM is only noted; a second one acts as it always does."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def stop_if_asked(self) -> None:
        """Raise `Interrupted` when a signal came."""
        if self._number is not None:
            raise Interrupted(self._number)

    def guard(self, batches: Iterable[T], can_stop: bool) -> Iterator[T]:
        """Pass batches through; where `can_stop`, a signal ends the run before the next one."""
        for batch in batches:
            if can_stop:
                self.stop_if_asked()
            yield batch

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._give_back()
        log.warning("%s: stopping at a point to continue from; once more to stop at once", signal.Signals(number).name)

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
