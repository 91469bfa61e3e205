"""SIGKILL at random and at aimed moments: before the k-th time that the process changes a file."""

import os
import random
import signal
from pathlib import Path

from .campaign import Campaign
from .trainer import SWEEP, VARIANTS, left, on_each_change, refer, reference, runs_in, train, working_in


def _prepare(shared: Path) -> None:
    for name, settings in VARIANTS.items():
        (shared / name).mkdir()
        with working_in(shared / name):
            refer(f"../{name}", *settings, "hydra.run.dir=run", folder="run")
    (shared / "sweep").mkdir()
    with working_in(shared / "sweep"):
        refer("../sweep", *SWEEP, folder="sweep")


def _attempt(rng: random.Random, shared: Path, folder: Path) -> str:
    name = rng.choice([*VARIANTS, "sweep"])
    undisturbed = reference(shared, name)
    settings = SWEEP if name == "sweep" else (*VARIANTS[name], "hydra.run.dir=run")
    place, command, kills = Path("sweep" if name == "sweep" else "run"), settings, 0
    for _ in range(rng.choice([1, 1, 2, 3])):
        ended = _killed(rng, command, undisturbed.changes, undisturbed.seconds)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL, f"status {ended}"
        kills += 1
        command = settings if name == "sweep" else _continuing(rng, settings)
    else:
        train(*command).expect(0)
    results = {run.name: left(run) for run in runs_in(place)}
    assert results == undisturbed.results, "the results differ from those of an undisturbed run"
    assert not [path for run in runs_in(place) for path in run.rglob("*.tmp")], "a killed process's leftovers are there"
    what = "sweep" if name == "sweep" else "run"
    return f"{what} killed {kills} times" if kills != 1 else f"{what} killed once"


def _killed(rng: random.Random, command: tuple[str, ...], changes: int, seconds: float) -> int:
    """The status of the command, killed at a moment that may be after its end."""
    if rng.random() < 0.5:
        return train(*command, kill_after=rng.uniform(0.0, 1.1 * seconds)).status
    last = rng.randint(1, changes)

    def die(count: int) -> None:
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return train(*command, prelude=lambda: on_each_change(die)).status


def _continuing(rng: random.Random, settings: tuple[str, ...]) -> tuple[str, ...]:
    """A command that goes on with a killed run."""
    if not Path("run", "request.json").exists():
        refused = train("resume=run").expect(2)
        assert "resume=run: must be" in refused.text, refused.text
        return settings
    return ("resume=run",) if rng.random() < 0.5 else (*settings, "resume=auto")


CAMPAIGN = Campaign(
    what="SIGKILL of runs and sweeps, then the command that goes on; bits, rows and curves as undisturbed",
    cases=400,
    few=4,
    prepare=_prepare,
    attempt=_attempt,
)
