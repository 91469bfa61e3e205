"""What the stage tree saves: whole sweeps through train.py, with the stage store and without it, side by side.

Each sweep is a process of its own, in turn, and its time is all of the command: start, planning, every run with its
files and pictures, and the report. Every run must end with the same weights both ways.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.app.compose import compose_config
from harness.app.sweep_plan import TREE
from harness.errors import UserError
from harness.files import write_json
from harness.machine import cpu_name, versions
from harness.training.devices import set_up
from harness.training.state import digest, load_state, save_state

_TRAIN = Path(__file__).resolve().parent.parent.parent / "train.py"
# An epoch of about a third of a second on one core, so that training, not starting, is what is timed.
_WORK = (
    "data=synthetic", "data.images=2000", "data.image_size=16", "data.channels=1", "model=small_cnn", "threads=1",
)  # fmt: skip
_PAIRS = ",".join(f"[{first},{second}]" for first in (30, 40, 50, 60) for second in (70, 80, 90))
_SECONDS = ",".join(f"[100,{second}]" for second in range(150, 200, 5))
_LENGTHS = ",".join(str(epochs) for epochs in range(10, 201, 10))
CASES: dict[str, tuple[str, ...]] = {
    "three schedules, 100 epochs": ("epochs=100", "scheduler=constant,step,multistep"),
    "12 milestone pairs, 100 epochs": ("epochs=100", "scheduler=multistep", f"scheduler.milestones={_PAIRS}"),
    "milestones [100, m], 200 epochs": ("epochs=200", "scheduler=multistep", f"scheduler.milestones={_SECONDS}"),
    "budget curve, 20 points to 200 epochs": (f"epochs={_LENGTHS}", "scheduler=late_decay"),
}


@dataclass(frozen=True)
class Case:
    """One sweep, both ways. Times in seconds, sizes in bytes, costs of one state in seconds (medians)."""

    name: str
    runs: int
    epochs_alone: int
    epochs_trained: int
    bound: float
    seconds_alone: float
    seconds_shared: float
    saving: float
    saving_of_bound: float
    equal_weights: bool
    states: int
    bytes_written: int
    seconds_to_hash: float
    seconds_to_save: float
    seconds_to_load: float


def main(arguments: Sequence[str]) -> None:
    """Measure the cases, print the table and write JSON.

    Raises:
        UserError: for an unknown case, or when a sweep fails.
    """
    parser = argparse.ArgumentParser(prog="benchmark.py stages", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="settings of train.py for all sweeps, such as data=digits")
    parser.add_argument("--cases", default="1,2,3,4", help="numbers of the cases to run (default: all)")
    parser.add_argument("--output", type=Path, default=Path("benchmark_stages.json"))
    options = parser.parse_args(arguments)
    names = list(CASES)
    try:
        chosen = [names[int(number) - 1] for number in options.cases.split(",")]
    except (ValueError, IndexError):
        raise UserError(f"--cases {options.cases}: must be numbers from 1 to {len(CASES)}, such as 1,3") from None
    console, found = Console(), []
    overrides = [*_WORK, *options.overrides]
    for name in chosen:
        found.append(_measured(name, overrides))
        console.print(_line(found[-1]), highlight=False)
        write_json(options.output, _record(found, overrides))
    console.print(_table(found))
    console.print(f"written: {options.output}", highlight=False)
    if not all(case.equal_weights for case in found):
        raise UserError("some runs ended with other weights than alone")


def _measured(name: str, overrides: Sequence[str]) -> Case:
    with tempfile.TemporaryDirectory(prefix="stages-") as scratch:
        folder = Path(scratch)
        alone = _timed_sweep(folder / "alone", [*overrides, *CASES[name], "resume=never"])
        shared = _timed_sweep(folder / "shared", [*overrides, *CASES[name], f"stages.dir={folder / 'stages'}"])
        summaries = [_summaries(folder / "alone"), _summaries(folder / "shared")]
        tree = json.loads((folder / "shared" / TREE).read_text())
        entries = sorted((folder / "stages").glob("*/*.pt"))
        hashing, saving, loading = _costs(entries[-1], folder)
        bound = tree["epochs_alone"] / tree["epochs_shared"]
        return Case(
            name=name,
            runs=len(summaries[0]),
            epochs_alone=tree["epochs_alone"],
            epochs_trained=sum(summary["epochs_trained"] for summary in summaries[1].values()),
            bound=bound,
            seconds_alone=alone,
            seconds_shared=shared,
            saving=alone / shared,
            saving_of_bound=alone / shared / bound,
            equal_weights=_weights(summaries[0]) == _weights(summaries[1]),
            states=len(entries),
            bytes_written=sum(entry.stat().st_size for entry in entries),
            seconds_to_hash=hashing,
            seconds_to_save=saving,
            seconds_to_load=loading,
        )


def _timed_sweep(folder: Path, overrides: Sequence[str]) -> float:
    command = [sys.executable, str(_TRAIN), "-m", *overrides, f"hydra.sweep.dir={folder}"]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise UserError(f"{' '.join(command)} failed with exit status {done.returncode}:\n{done.stdout[-2000:]}")
    return seconds


def _summaries(sweep: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/summary.json")}


def _weights(summaries: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: summary["weights_sha256"] for name, summary in summaries.items()}


def _costs(entry: Path, folder: Path, repetitions: int = 5) -> tuple[float, float, float]:
    """Median seconds to hash the content of a state, to save it and to load it, both with their hash."""
    state = load_state(entry)
    return (
        _median(lambda: digest(asdict(state)), repetitions),
        _median(lambda: save_state(folder / "copy.pt", state, durable=False), repetitions),
        _median(lambda: load_state(entry), repetitions),
    )


def _median(action: Callable[[], object], repetitions: int) -> float:
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _record(found: Sequence[Case], overrides: Sequence[str]) -> dict[str, Any]:
    config = compose_config(overrides)[0]
    compute = set_up(config)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": compute.device_name,
        "cpu": cpu_name(),
        "versions": versions(),
        "overrides": list(overrides),
        "cases": [asdict(case) for case in found],
    }


def _line(case: Case) -> str:
    costs = [1e3 * value for value in (case.seconds_to_hash, case.seconds_to_save, case.seconds_to_load)]
    size = case.bytes_written / max(1, case.states) / 1e6
    return (
        f"{case.name}: {case.seconds_alone:.0f} s alone, {case.seconds_shared:.0f} s shared; {case.states} states of "
        f"{size:.2f} MB written; each takes {costs[0]:.1f} ms to hash, {costs[1]:.1f} to save, {costs[2]:.1f} to load"
    )


def _table(found: Sequence[Case]) -> Table:
    table = Table(title="Time of a sweep alone over time with the stage store", box=None)
    table.add_column("sweep")
    for heading in ("epochs alone", "trained", "bound", "saving", "of bound", "equal weights"):
        table.add_column(heading, justify="right")
    for case in found:
        table.add_row(
            case.name,
            f"{case.epochs_alone:,}",
            f"{case.epochs_trained:,}",
            f"{case.bound:.2f}",
            f"{case.saving:.2f}",
            f"{case.saving_of_bound:.0%}",
            "yes" if case.equal_weights else "NO",
        )
    return table
