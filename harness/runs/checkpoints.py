"""A run's own checkpoint files."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.training.state import DamagedCheckpointError, TrainState, load_state, save_state

_NAME = re.compile(r"epoch_[0-9]{5,}\.pt")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examined:
    """The state to continue from, if any; the files passed over, each with the reason; and the first epoch in which a
    passed over state was trained otherwise than it should have been."""

    state: TrainState | None
    passed_over: tuple[tuple[Path, str], ...]
    differs_at: int | None

    def set_aside(self) -> None:
        """Rename the files that were passed over, so that they do not count any more."""
        for path, why in self.passed_over:
            log.warning("%s is set aside (%s)", path, why)
            path.rename(path.with_suffix(f".pt.{why}"))


class Checkpoints:
    """The checkpoint files of one run: `epoch_00007.pt` is the state after seven epochs.

    Kept are the latest `keep` and the one with the best validation accuracy. They are `every` so many epochs apart; by
    `auto`, which goes by the clock, the next one is due when the last one's making was `AT_MOST` of the time.
    """

    AT_MOST = 0.02

    def __init__(self, folder: Path, every: int | Literal["auto"], keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self._not_before = -math.inf

    def files(self) -> dict[int, Path]:
        """The files there are by number of epochs, fewest first."""
        paths = (path for path in self.folder.glob("epoch_*.pt") if _NAME.fullmatch(path.name) and path.is_file())
        return dict(sorted((int(path.stem.removeprefix("epoch_")), path) for path in paths))

    def is_due(self, epochs_done: int, epochs: int) -> bool:
        """Whether the state after `epochs_done` epochs is to be saved: by cadence, as the last, or as the first one,
        so that a folder that cannot be written is noticed at once.
        """
        by_cadence = time.perf_counter() >= self._not_before if self.every == "auto" else epochs_done % self.every == 0
        return by_cadence or epochs_done in (1, epochs)

    def saving(self, states: Sequence[Callable[[], TrainState]], best_epoch: int, since: float) -> Callable[[], None]:
        """The work of saving states, earlier ones first; none is due by the clock until it is done.

        `since` is when their making began (`perf_counter`). The work raises as `save_state`.
        """
        self._not_before = math.inf

        def work() -> None:
            cost = -math.inf  # after a failure the next is due at once, and says so
            try:
                self.save([state() for state in states], best_epoch)
                cost = time.perf_counter() - since
            finally:
                self._not_before = time.perf_counter() + cost / self.AT_MOST

        return work

    def save(self, states: Sequence[TrainState], best_epoch: int) -> None:
        """Save the states, then delete what is not to be kept; raises as `save_state`."""
        self.folder.mkdir(exist_ok=True)
        for state in states:
            save_state(self.folder / f"epoch_{state.epoch:05d}.pt", state)
        files = self.files()
        kept = {*list(files)[-self.keep :], best_epoch + 1}
        for epoch, path in files.items():
            if epoch not in kept:
                path.unlink()

    def examine(self, agreement: Callable[[TrainState], int]) -> Examined:
        """The latest undamaged state whose every epoch agrees, and the files that were passed over for it.

        `agreement` tells how many of a state's first epochs are as they should be.
        """
        passed_over: list[tuple[Path, str]] = []
        differs_at: int | None = None
        for path in reversed(self.files().values()):
            try:
                state = load_state(path)
            except DamagedCheckpointError as error:
                log.warning("%s; going back to an earlier checkpoint", error)
                passed_over.append((path, "damaged"))
                continue
            agreed = agreement(state)
            if agreed >= state.epoch:
                return Examined(state, tuple(passed_over), differs_at)
            differs_at = agreed if differs_at is None else min(agreed, differs_at)
            passed_over.append((path, "superseded"))
        return Examined(None, tuple(passed_over), differs_at)


def check_identity(state: TrainState, identity: Mapping[str, Any]) -> None:
    """Refuse to continue a run with settings or data that it was not begun with; warn of another environment.

    Raises:
        UserError: naming each setting with its old and its new value.
    """
    names = sorted({*state.identity, *identity})
    changed = [name for name in names if state.identity.get(name) != identity.get(name)]
    if "data.normalisation" not in state.identity:  # of before it was noted; it follows from the data
        changed.remove("data.normalisation")
    environment = [name for name in changed if name.startswith(("versions.", "environment."))]
    settings = [name for name in changed if name not in environment]
    if settings:
        lines = [_changed(name, identity, state.identity) for name in settings]
        raise UserError("resume: only the schedule, epochs and checkpoint settings may change\n" + "\n".join(lines))
    for name in environment:
        what = f"{name.partition('.')[2]} was {state.identity.get(name)} and is now {identity.get(name)}"
        log.warning("%s: the result may differ in its last bits from an uninterrupted run", what)


def _changed(name: str, now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    setting = f"{name}={now[name]}" if name in now else f"{name} (not set)"
    return (
        f"{setting}: the run was begun with {then[name]}" if name in then else f"{setting}: the run was begun without"
    )
