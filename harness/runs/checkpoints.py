"""A run's own checkpoint files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Kept are the latest `keep` and the one with the best validation accuracy.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep

    def files(self) -> dict[int, Path]:
        """The files there are by number of epochs, fewest first."""
        paths = (path for path in self.folder.glob("epoch_*.pt") if _NAME.fullmatch(path.name) and path.is_file())
        return dict(sorted((int(path.stem.removeprefix("epoch_")), path) for path in paths))

    def is_due(self, epochs_done: int, epochs: int, best_epoch: int) -> bool:
        """Whether the state after `epochs_done` epochs is to be saved: by cadence, as the last, or as the best."""
        return epochs_done % self.every == 0 or epochs_done in (epochs, best_epoch + 1)

    def save(self, state: TrainState, best_epoch: int) -> None:
        """Save the state, then delete what is not to be kept; raises as `save_state`."""
        self.folder.mkdir(exist_ok=True)
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
        lines = [f"{name}={identity.get(name)}: the run was begun with {state.identity.get(name)}" for name in settings]
        raise UserError("resume: only the schedule, epochs and checkpoint settings may change\n" + "\n".join(lines))
    for name in environment:
        what = f"{name.partition('.')[2]} was {state.identity.get(name)} and is now {identity.get(name)}"
        log.warning("%s: the result may differ in its last bits from an uninterrupted run", what)
