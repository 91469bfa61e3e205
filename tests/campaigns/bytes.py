"""Damaged files: of completed runs, of runs and sweeps that are to go on, of the stage store."""

import dataclasses
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

from harness.compare.comparison import compare
from harness.compare.load import Run, altered, load_runs
from harness.errors import UserError
from harness.record import MODEL_FILE

from .campaign import Campaign
from .damage import damage
from .trainer import SWEEP, VARIANTS, left, on_each_change, refer, reference, runs_in, train, working_in

_RUN = (*VARIANTS["adamw"], "hydra.run.dir=run")


def _prepare(shared: Path) -> None:
    with working_in(shared):
        refer("adamw", *_RUN, folder="run")
        refer("sweep", *SWEEP, folder="sweep")
        changes = reference(shared, "adamw").changes

        def die(count: int) -> None:
            if count == changes // 2:
                os.kill(os.getpid(), signal.SIGKILL)

        assert train(*VARIANTS["adamw"], "hydra.run.dir=killed", prelude=lambda: on_each_change(die)).status < 0
        assert list(Path("killed", "checkpoints").iterdir()), "killed before it had a checkpoint"


def _attempt(rng: random.Random, shared: Path, folder: Path) -> str:
    return rng.choice([_reported, _reported, _resumed, _stored, _swept])(rng, shared)


def _reported(rng: random.Random, shared: Path) -> str:
    """A report has the numbers of an undamaged run, or says why it has none."""
    shutil.copytree(shared / "sweep", "sweep")
    whole = {run.name: _facts(run) for run in load_runs([Path("sweep")]).runs}
    path = rng.choice([path for run in runs_in(Path("sweep")) for path in run.iterdir() if path.is_file()])
    how = damage(rng, path)
    try:
        loaded = load_runs([Path("sweep")])
    except UserError as error:
        return f"report refused: {type(error).__name__}"
    for run in loaded.runs:
        assert not run.counts or _facts(run) == whole[run.name], f"{path}, {how}: other numbers, and no word of it"
    if path.name == MODEL_FILE:
        run = next(run for run in loaded.runs if run.folder == path.parent.resolve())
        assert altered(run, (MODEL_FILE,)) == [MODEL_FILE], f"{path}, {how}: not seen"
    compare(loaded)
    return "report: run left out" if any(not run.counts for run in loaded.runs) else "report: the same numbers"


def _facts(run: Run) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(run).items() if name not in ("folder", "finished")}


def _resumed(rng: random.Random, shared: Path) -> str:
    """A run goes on with the bits of an undisturbed one, or is refused."""
    shutil.copytree(shared / (source := rng.choice(["run", "killed"])), "run")
    kind = "completed run" if source == "run" else "killed run"
    path = rng.choice(_files(Path("run"), is_over=source == "run"))
    how = damage(rng, path)
    ended = train("resume=run")
    if ended.status == 0:
        assert {"run": left(Path("run"))} == reference(shared, "adamw").results, f"{path}, {how}: other results"
        return f"{kind}: restored or gone on with"
    assert ended.expect(2).text.startswith("error: "), f"{path}, {how}: {ended.text}"
    return f"{kind}: refused"


def _files(folder: Path, is_over: bool) -> list[Path]:
    """What can be damaged; what is over is not read for TensorBoard again, whose files have checksums of their own."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(path for path in files if not (is_over and path.name.startswith("events.")))


def _stored(rng: random.Random, shared: Path) -> str:
    """A run that takes epochs from a damaged store ends as if it had trained them."""
    shutil.copytree(shared / "runs", "runs")
    for path in rng.sample(files := sorted(path for path in Path("runs/.stages").rglob("*") if path.is_file()), 3):
        damage(rng, path)
    assert files
    train(*_RUN, "resume=auto").expect(0)
    assert {"run": left(Path("run"))} == reference(shared, "adamw").results, "other results"
    return "store: the same results"


def _swept(rng: random.Random, shared: Path) -> str:
    """A sweep started again ends as it did."""
    shutil.copytree(shared / "sweep", "sweep")
    path = rng.choice(_files(Path("sweep"), is_over=True))
    how = damage(rng, path)
    ended = train(*SWEEP)
    if ended.status == 0:
        results = {run.name: left(run) for run in runs_in(Path("sweep"))}
        assert results == reference(shared, "sweep").results, f"{path}, {how}: other results"
        return "sweep: as it was"
    assert "error: " in ended.expect(2).text, f"{path}, {how}: {ended.text}"
    return "sweep: refused"


CAMPAIGN = Campaign(
    what="damaged files; reports, resumed runs and sweeps are as without damage, or say what is wrong",
    cases=1000,
    few=6,
    prepare=_prepare,
    attempt=_attempt,
)
