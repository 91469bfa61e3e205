"""What the stage tree saves: whole sweeps through train.py, with the stage store and without it, side by side.

Each sweep is a process of its own, in turn, and its time is all of the command: start, planning, every run with its
files and pictures, and the report. Every run must end with the same weights both ways.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.app.compose import compose_config
from harness.app.sweep_folder import TREE
from harness.benchmarks import ROOT
from harness.benchmarks.study import Row, Study, output, parser, table
from harness.errors import UserError
from harness.training.devices import set_up
from harness.training.state import digest, load_state, save_state

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


def main(arguments: Sequence[str]) -> None:
    """Measure the cases, print the table and write JSON."""
    made = parser("stages", __doc__, rounds=1)
    made.add_argument("--cases", default="1,2,3,4", help="numbers of the cases to run (default: all)")
    options = made.parse_intermixed_args(list(arguments))
    try:
        cases = [list(CASES)[int(number) - 1] for number in options.cases.split(",")]
    except (ValueError, IndexError):
        raise UserError(f"--cases {options.cases}: must be numbers from 1 to {len(CASES)}, such as 1,3") from None
    options.overrides = [*_WORK, *options.overrides]
    device = set_up(compose_config(options.overrides)[0]).device_name
    _Sweeps(options, [cases], {"device": device}).run()


class _Sweeps(Study):
    def measure(self, name: str) -> Row:
        """One sweep, both ways. Times in seconds, sizes in bytes, costs of one state in seconds (medians)."""
        overrides = [*self.options.overrides, *CASES[name]]
        with tempfile.TemporaryDirectory(prefix="stages-") as scratch:
            folder = Path(scratch)
            alone, runs_alone = _timed_sweep(folder / "alone", [*overrides, "resume=never"])
            shared, runs_shared = _timed_sweep(folder / "shared", [*overrides, f"stages.dir={folder / 'stages'}"])
            tree = json.loads((folder / "shared" / TREE).read_text())
            bound = tree["epochs_alone"] / tree["epochs_shared"]
            entries = sorted((folder / "stages").glob("*/*.pt"))
            state, copy = load_state(entries[-1]), folder / "copy.pt"
            weights_alone, weights_shared = (
                [run["weights_sha256"] for run in runs] for runs in (runs_alone, runs_shared)
            )
            return {
                "name": name,
                "runs": len(runs_alone),
                "epochs_alone": tree["epochs_alone"],
                "epochs_trained": sum(run["epochs_trained"] for run in runs_shared),
                "bound": bound,
                "seconds_alone": alone,
                "seconds_shared": shared,
                "saving": alone / shared,
                "saving_of_bound": alone / shared / bound,
                "equal_weights": weights_alone == weights_shared,
                "states": len(entries),
                "bytes_written": sum(entry.stat().st_size for entry in entries),
                "seconds_to_hash": _median(lambda: digest(asdict(state))),
                # Both with their hash.
                "seconds_to_save": _median(lambda: save_state(copy, state, durable=False)),
                "seconds_to_load": _median(lambda: load_state(entries[-1])),
            }

    def said(self, row: Row) -> str:
        hash_ms, save_ms, load_ms = (1e3 * row[f"seconds_to_{what}"] for what in ("hash", "save", "load"))
        states, size = row["states"], row["bytes_written"] / max(1, row["states"]) / 1e6
        return (
            f"{row['seconds_alone']:.0f} s alone, {row['seconds_shared']:.0f} s shared; {states} states of "
            f"{size:.2f} MB written; each takes {hash_ms:.1f} ms to hash, {save_ms:.1f} to save, {load_ms:.1f} to load"
        )

    def cases(self) -> list[Row]:
        return [case for cases in self.results().values() for case in cases]

    def record(self) -> dict[str, Any]:
        return {"cases": self.cases()}

    def wrong(self) -> list[str]:
        unequal = [case["name"] for case in self.cases() if not case["equal_weights"]]
        return [f"{name}: some runs ended with other weights than alone" for name in unequal]

    def table(self) -> Table:
        forms = {"epochs_alone": ",", "epochs_trained": ",", "bound": ".2f", "saving": ".2f", "saving_of_bound": ".0%"}
        rows = []
        for case in self.cases():
            equal = "yes" if case["equal_weights"] else "NO"
            rows.append((case["name"], *(format(case[key], form) for key, form in forms.items()), equal))
        right = ("epochs alone", "trained", "bound", "saving", "of bound", "equal weights")
        return table("Time of a sweep alone over time with the stage store", ["sweep"], right, rows)


def _timed_sweep(folder: Path, overrides: Sequence[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the whole command, and the summaries of its runs."""
    began = time.perf_counter()
    output([sys.executable, str(ROOT / "train.py"), "-m", *overrides, f"hydra.sweep.dir={folder}"])
    return time.perf_counter() - began, _summaries(folder)


def _summaries(sweep: Path) -> list[dict[str, Any]]:
    """By the number of the job, with which its folder's name begins; the rest of the name tells settings."""
    paths = sorted(sweep.glob("*/summary.json"), key=lambda path: int(path.parent.name.partition("_")[0]))
    return [json.loads(path.read_text()) for path in paths]


def _median(action: Callable[[], object]) -> float:
    return statistics.median(timeit.repeat(action, number=1, repeat=5))
