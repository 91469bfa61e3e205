"""A run's way through the stage store: where it takes over what others trained, and what it leaves for others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UserError, plural
from harness.files import WriteBehind
from harness.stages import keys
from harness.stages.store import Claim, StageStore
from harness.training.plan import LrPlan
from harness.training.state import TrainState

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_WORDS = 60.0
_LONG = 600.0  # seconds without progress after which somebody should look


@dataclass(frozen=True)
class Sharing:
    """How a run uses the stage store: whether it takes states from it, and at which epochs it leaves some there.

    `save_at` are the boundaries at which a sibling of the same sweep departs; to these come the multiples of `every`.
    Where another process trains the same epochs but gets no further for `overtake_after` minutes, the run trains them
    itself; without that it waits as long as the other lives.
    """

    store: StageStore
    takes: bool
    every: int
    save_at: tuple[int, ...] = ()
    overtake_after: float | None = None


class Walk:
    """One run's way. While it is entered it may hold the claim on a stretch of epochs; leaving it drops the claim.

    States are left there by `behind`, and are there before a claim is dropped.
    """

    def __init__(
        self,
        sharing: Sharing | None,
        plan: LrPlan,
        identity: dict[str, Any],
        note: dict[str, Any],
        behind: WriteBehind,
    ) -> None:
        self._sharing, self._note, self._plan, self._behind = sharing, note, plan, behind
        self._names = keys.names(identity, (plan.by_group(epoch) for epoch in range(plan.epochs)))
        self._stops = sorted({plan.epochs, *(sharing.save_at if sharing else ())})
        self._claim: Claim | None = None
        self._claimed_to = 0

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def latest(self, after: int) -> TrainState | None:
        """The state of the latest epoch boundary beyond `after` that is in the store, its rows marked as reused."""
        if self._sharing is None or not self._sharing.takes:
            return None
        for epoch in range(self._plan.epochs, after, -1):
            if self._sharing.store.has(self._names[epoch]):
                state = self._sharing.store.get(self._names[epoch])
                if state is not None:
                    return replace(state, rows=tuple(replace(row, reused=True) for row in state.rows))
        return None

    def arrive(self, epoch: int, check: Callable[[], None]) -> TrainState | None:
        """Before epoch `epoch`: a later state to go on from, or None when this run is to train the epoch itself.

        Where another process trains the same epochs, wait for it; `check` is called meanwhile and may raise.
        """
        if self._sharing is None or not self._sharing.takes or epoch < self._claimed_to:
            return None
        self._behind.wait()
        self._release()
        if (state := self.latest(epoch)) is not None:
            return state
        target = next(stop for stop in self._stops if stop > epoch)
        if self._sharing.store.folder is not None:
            try:
                self._claim = self._acquired(self._sharing, epoch, target, check)
            except UserError as error:
                log.warning("%s; the run goes on by itself", error)
                self._sharing = None
                return None
            # Whoever held the claim until now may have left just what was claimed.
            if (state := self.latest(epoch)) is not None:
                self._release()
                return state
        self._claimed_to = target
        return None

    def leaves(self, epoch: int) -> bool:
        """Whether the state at the boundary before `epoch` lies in the store once the run has `passed` there."""
        return self._sharing is not None and (epoch in self._stops or epoch % self._sharing.every == 0)

    def passed(self, epoch: int, state_now: Callable[[], Callable[[], TrainState]]) -> None:
        """After epoch `epoch - 1`: leave the state at the boundary before `epoch`, if others may come past.

        What `state_now` gives, gives it to the thread that writes.
        """
        if self._claim is not None:
            self._claim.reached(epoch)
        if self._sharing is None or not self.leaves(epoch):
            return
        name = self._names[epoch]
        if self._sharing.store.has(name):
            return
        note, store, state = {**self._note, "lr": self._plan.by_group(epoch - 1)}, self._sharing.store, state_now()

        def put() -> None:
            try:
                store.put(name, state(), note)
            except UserError as error:
                log.warning("%s; the run goes on without leaving its state there", error)

        self._behind.give(put)

    def _acquired(self, sharing: Sharing, epoch: int, target: int, check: Callable[[], None]) -> Claim | None:
        """The claim on the epochs up to `target`, once it is free; None when its holder is to be overtaken."""
        store, name = sharing.store, self._names[target]
        claim, wait = store.claim(name, seconds=0), _Wait(epoch, target)
        while claim is None:
            minutes = wait.look(store.holder(name)) / 60
            if sharing.overtake_after is not None and minutes >= sharing.overtake_after:
                log.warning("stages.overtake_after=%g: %s trained here, too", sharing.overtake_after, wait.what)
                return None
            check()
            claim = store.claim(name, _SECONDS_BETWEEN_LOOKS)
        claim.reached(epoch)
        return claim

    def _release(self) -> None:
        self._claimed_to = 0
        if self._claim is not None:
            self._claim.release()
            self._claim = None


class _Wait:
    """Waiting for a claim: whom for, and since when it gives no sign of life, by this process's own clock."""

    def __init__(self, epoch: int, target: int) -> None:
        are = "is" if target == epoch + 1 else "are"
        self.what = f"{epochs_text(epoch, target - 1)} {are}"
        self._holder: dict[str, Any] = {}
        self._moved = self._next_word = time.monotonic()
        self._is_first = True

    def look(self, holder: dict[str, Any]) -> float:
        """Take in what `StageStore.holder` says now, and log it at first and every minute.

        Returns the seconds since it last changed.
        """
        now = time.monotonic()
        if holder != self._holder:
            self._holder, self._moved = holder, now
        if now >= self._next_word:
            self._next_word = now + _SECONDS_BETWEEN_WORDS
            self._say(now - self._moved)
            self._is_first = False
        return now - self._moved

    def _say(self, idle: float) -> None:
        about, still = self._holder, "" if self._is_first else "still "
        who = f"process {about['process']} on {about.get('host')}" if "process" in about else "another process"
        since = f", which began at {about['since']}" if "since" in about else ""
        so_far = f" and has reached epoch {about['epoch']}" if "epoch" in about else ""
        idle_text = f"; no progress for {plural(int(idle / 60), 'minute')}" if idle >= 60 else ""
        text = f"{self.what} being trained by {who}{since}{so_far}: {still}waiting for it{idle_text}"
        if idle >= _LONG:
            log.warning("%s; stop it if it hangs, or set stages.overtake_after=MINUTES to train them here", text)
        else:
            # A person who sees nothing else for a minute is told even where a sweep shows no more than a line a job.
            log.info("%s", text, extra={"is_news": not self._is_first})


def epochs_text(first: int, last: int) -> str:
    """`epoch 3` or `epochs 0 to 29`."""
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"
