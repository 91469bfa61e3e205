"""Signals as a request to stop where the run can be continued: SIGINT, SIGTERM, SIGUSR1 and SIGUSR2."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
# Batch systems warn by these; whoever handles them already, as submitit does, goes on doing so.
_UNLESS_HANDLED = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(SystemExit):
    """The program stopped on a signal; the exit status is the shell's, 128 plus the signal's number.

    As a `SystemExit` it also ends a Hydra multirun, whose launcher goes on after ordinary exceptions. `is_told` says
    that the user was told what goes on from here.
    """

    is_told = False

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


# Whether `interruptible` raises, and the signal that it raised last: Python may lose what is raised amid an import.
_raises = False
_raised: int | None = None


@contextmanager
def interruptible(say: Callable[[str], None]) -> Iterator[None]:
    """While entered, a signal ends the program at once, after `say` told what that means (it gets the signal's name).

    After `raise_from_now_on` it raises `Interrupted` wherever the program is. A second one acts as it always does.
    """
    previous: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        global _raised
        _give_back(previous)
        if _raises:
            _raised = number
            raise Interrupted(number)
        say(signal.Signals(number).name)
        sys.stdout.flush()
        os._exit(128 + number)

    _take_over(previous, stop)
    try:
        yield
    finally:
        _give_back(previous)


def raise_from_now_on() -> None:
    """From now on there is more to do on a signal than to end."""
    global _raises
    _raises = True


class Interruption:
    """While it is entered, the first signal is only noted; a second one acts as it did before."""

    def __init__(self) -> None:
        self._number: int | None = _raised
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        _take_over(self._previous, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _give_back(self._previous)

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
        _give_back(self._previous)
        log.warning("%s: stopping at a point to continue from; once more to stop at once", signal.Signals(number).name)


def _take_over(previous: dict[int, Any], handler: Callable[[int, FrameType | None], None]) -> None:
    # Python lets only the main thread set handlers.
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (*_ALWAYS, *_UNLESS_HANDLED):
        present = signal.getsignal(number)
        is_ours = getattr(present, "__module__", None) == __name__
        if number in _ALWAYS or present == signal.SIG_DFL or is_ours:
            previous[number] = signal.signal(number, handler)


def _give_back(previous: dict[int, Any]) -> None:
    while previous:
        signal.signal(*previous.popitem())
