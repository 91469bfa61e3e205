"""Start-up: seconds from the command to the first optimizer step and to the first TensorBoard point on the disk.

Each round starts fresh processes in turn: `python -c "import torch"`, which is the floor, train.py for one epoch, and a
minimal Lightning script on the digits. Also told: the packages that take longest to import, which heavy ones were
imported at all, peak memory, and how fast the network is evaluated.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks import ROOT
from harness.benchmarks.contestants import why_missing
from harness.benchmarks.study import SPEED, MeasurementError, Row, Study, measured, parser, table
from harness.benchmarks.work import Work
from harness.data.dataset import load_dataset
from harness.training.devices import set_up

TORCH, OWN, PEER = "import torch", "train.py", "Lightning, minimal script"
_FIRST_STEP, _PEER_SCRIPT = (str(Path(__file__).with_name(name)) for name in ("first_step.py", "lightning_digits.py"))
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
# Tags of a scalar that comes with the first epoch; they are plain text in an event file.
_TAGS = {OWN: b"throughput/images_per_second", PEER: b"train_loss"}


def main(arguments: Sequence[str]) -> None:
    """Measure in turn, print the tables and write JSON, or, as its own process is started, measure evaluation."""
    made = parser("startup", __doc__, rounds=3)
    made.add_argument("--evaluate", action="store_true", help="measure evaluation in this process and print JSON")
    options = made.parse_intermixed_args(list(arguments))
    if options.evaluate:
        print(json.dumps(_evaluation(options.overrides)))
        return
    compose_config(options.overrides)
    missing = why_missing("lightning")
    imports = _imports(options.overrides)
    evaluation = measured("startup", [*options.overrides, "--evaluate"])
    longest = ", ".join(f"{package} {seconds:.2f}" for package, seconds in imports.items())
    remarks = [
        f"longest imports of train.py, seconds in the package's own modules: {longest}",
        f"evaluation: {evaluation['images_per_second']:,.0f} images/s on {evaluation['device']}",
        *([f"skipped: {PEER}: {missing}"] if missing else []),
    ]
    threads = os.environ.get("OMP_NUM_THREADS")
    known = {"threads": threads, "longest_imports_seconds": imports, "evaluation": evaluation}
    _Starts(options, [[TORCH, OWN, *([] if missing else [PEER])]], known).run(remarks)


class _Starts(Study):
    def measure(self, name: str) -> Row:
        with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
            return _started(name, self.options.overrides, Path(scratch))

    def said(self, row: Row) -> str:
        return f"{row['first_step'] or row['seconds']:.2f} s"

    def table(self) -> Table:
        rows, captions = [], []
        for name, starts in self.results().items():
            times = [str(self.spread(name, quantity) or "") for quantity in ("first_step", "first_point", "seconds")]
            memory = [self.median(name, f"{place}_bytes", scale=1e-6) for place in ("host", "device")]
            rows.append((name, *times, *memory))
            if name != TORCH:
                first = starts[-1]["imported_by_first_step"]
                later = [module for module in starts[-1]["imported_by_the_end"] if module not in first]
                captions.append(f"{name}, heavy imports before the first step: {', '.join(first)}")
                captions.append(f"{name}, after it: {', '.join(later) or 'none'}")
        right = ("first step", "first TensorBoard point", "end", "peak host MB", "peak device MB")
        made = table("Seconds after the start of the process, median (range)", ["process"], right, rows)
        made.caption_justify = "left"
        made.caption = "\n".join(captions)
        return made


def _started(name: str, overrides: Sequence[str], folder: Path) -> Row:
    """Start one process, wait for its end, and watch for its first point meanwhile. Times in seconds after its start,
    bytes at the peak; None for what it does not do."""
    script = [_PEER_SCRIPT] if name == PEER else _one_epoch(overrides, folder)
    probed = [sys.executable, _FIRST_STEP, str(folder / "notes.json"), *script]
    command = [sys.executable, "-c", "import torch"] if name == TORCH else probed
    row: Row = dict.fromkeys(("first_step", "first_point", "host_bytes", "device_bytes"))
    row |= {"imported_by_first_step": [], "imported_by_the_end": []}
    began = time.time()
    with (folder / "output.txt").open("w") as said:
        # Lightning writes where it is started.
        process = subprocess.Popen(command, cwd=folder if name == PEER else None, stdout=said, stderr=said)
        while process.poll() is None:
            if row["first_point"] is None and _has_point(name, folder):
                row["first_point"] = time.time() - began
            time.sleep(0.01)
    row["seconds"] = time.time() - began
    if process.returncode != 0:
        text = (folder / "output.txt").read_text()[-2000:]
        raise MeasurementError(f"exit status {process.returncode}: {text}")
    if name != TORCH:
        row |= json.loads((folder / "notes.json").read_text())
        row["first_step"] -= began
    if row["first_point"] is None and _has_point(name, folder):
        row["first_point"] = row["seconds"]
    return row


def _has_point(name: str, folder: Path) -> bool:
    return name in _TAGS and any(_TAGS[name] in path.read_bytes() for path in folder.rglob("events.out.tfevents.*"))


def _one_epoch(overrides: Sequence[str], folder: Path) -> list[str]:
    """train.py for one epoch with all its files in the folder."""
    folders = (f"hydra.run.dir={folder / 'run'}", f"stages.dir={folder / 'stages'}")
    return [str(ROOT / "train.py"), "epochs=1", *overrides, *folders]


def _imports(overrides: Sequence[str]) -> dict[str, float]:
    """Seconds that train.py spends in each package's own modules on import, the ten longest."""
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        command = [sys.executable, "-X", "importtime", *_one_epoch(overrides, Path(scratch))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    own: Counter[str] = Counter()
    for microseconds, module in _IMPORT_LINE.findall(done.stderr):
        own[module.partition(".")[0]] += int(microseconds)
    return {package: microseconds / 1e6 for package, microseconds in own.most_common(10)}


def _evaluation(overrides: Sequence[str]) -> dict[str, Any]:
    """Images a second in `Learner.score`, on the validation images over and over for a second."""
    config, _ = compose_config(overrides)
    work = Work(config, set_up(config), load_dataset(config.images), epochs=1)
    learner, loader = work.learner(), work.loader()
    learner.score(loader.evaluation("val")).score()
    passes, began = 0, time.perf_counter()
    # A pass ends with its score on the host, so the device is done.
    while time.perf_counter() - began < 1:
        learner.score(loader.evaluation("val")).score()
        passes += 1
    images, seconds = len(work.dataset.val), time.perf_counter() - began
    return {SPEED: passes * images / seconds, "images": images, "device": work.compute.device_name}
