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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks.contestants import contestants
from harness.benchmarks.processes import ROOT, MeasurementError, measured
from harness.benchmarks.study import Study, parser, table
from harness.data.dataset import load_dataset
from harness.data.loader import Loader
from harness.models.build import build_model
from harness.training.devices import set_up
from harness.training.learner import Learner

TORCH, OWN, PEER = "import torch", "train.py", "Lightning, minimal script"
_PROBE = ROOT / "harness" / "benchmarks" / "probe.py"
_PEER_SCRIPT = ROOT / "harness" / "benchmarks" / "lightning_digits.py"
_NOTES = "notes.json"
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
# Tags of a scalar that comes with the first epoch; they are plain text in an event file.
_TAGS = {OWN: b"throughput/images_per_second", PEER: b"train_loss"}


@dataclass(frozen=True)
class Start:
    """One process. Times in seconds after its start, bytes at the peak; None for what it does not do."""

    seconds: float
    first_step: float | None = None
    first_point: float | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None
    imported_by_first_step: tuple[str, ...] = ()
    imported_by_the_end: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.first_step or self.seconds:.2f} s"


def main(arguments: Sequence[str]) -> None:
    """Measure in turn, print the tables and write JSON.

    Raises:
        UserError: for wrong settings, when evaluation fails, and, after everything is written, when a process failed.
    """
    made = parser("startup", __doc__, rounds=3)
    made.add_argument("--evaluate", action="store_true", help="measure evaluation in this process and print JSON")
    options = made.parse_intermixed_args(list(arguments))
    if options.evaluate:
        print(json.dumps(_evaluation(options.overrides)))
        return
    compose_config(options.overrides)
    missing = next(c for c in contestants().values() if c.package == "lightning").why_missing
    names = [TORCH, OWN, *([] if missing else [PEER])]
    imports = _imports(options.overrides)
    evaluation = measured("startup", [*options.overrides, "--evaluate"])
    longest = ", ".join(f"{package} {seconds:.2f}" for package, seconds in imports.items())
    remarks = [
        f"longest imports of train.py, seconds in the package's own modules: {longest}",
        f"evaluation: {evaluation['images_per_second']:,.0f} images/s on {evaluation['device']}",
        *([f"skipped: {PEER}: {missing}"] if missing else []),
    ]

    def record(study: Study[Start]) -> dict[str, Any]:
        return {
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "rounds": study.as_json(),
            "longest_imports_seconds": imports,
            "evaluation": evaluation,
        }

    Study(options, [names], lambda name: _started(name, options.overrides), record, _table).run(remarks)


def _started(name: str, overrides: Sequence[str]) -> Start:
    """Start one process, wait for its end, and watch for its first point meanwhile.

    Raises:
        MeasurementError: when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        folder = Path(scratch)
        began = time.time()
        with (folder / "output.txt").open("w") as output:
            command = _command(name, overrides, folder)
            # Lightning writes where it is started.
            process = subprocess.Popen(command, cwd=folder if name == PEER else None, stdout=output, stderr=output)
            point: float | None = None
            while process.poll() is None:
                if point is None and name in _TAGS and _has_point(folder, _TAGS[name]):
                    point = time.time() - began
                time.sleep(0.01)
        seconds = time.time() - began
        if process.returncode != 0:
            said = (folder / "output.txt").read_text()[-2000:]
            raise MeasurementError(f"exit status {process.returncode}: {said}")
        if name == TORCH:
            return Start(seconds)
        notes = json.loads((folder / _NOTES).read_text())
        if point is None and _has_point(folder, _TAGS[name]):
            point = seconds
        return Start(seconds, notes.pop("first_step") - began, point, **notes)


def _command(name: str, overrides: Sequence[str], folder: Path) -> list[str]:
    if name == TORCH:
        return [sys.executable, "-c", "import torch"]
    script = [str(_PEER_SCRIPT)] if name == PEER else _one_epoch(overrides, folder)
    return [sys.executable, str(_PROBE), str(folder / _NOTES), *script]


def _one_epoch(overrides: Sequence[str], folder: Path) -> list[str]:
    """train.py for one epoch with all its files in the folder."""
    own = ["epochs=1", *overrides, f"hydra.run.dir={folder / 'run'}", f"stages.dir={folder / 'stages'}"]
    return [str(ROOT / "train.py"), *own]


def _has_point(folder: Path, tag: bytes) -> bool:
    return any(tag in path.read_bytes() for path in folder.rglob("events.out.tfevents.*"))


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
    compute, dataset = set_up(config), load_dataset(config.data)
    network = partial(build_model, config.model, dataset.shape, len(dataset.classes), [config.batch_size])
    learner = Learner(config, compute, network, config.batch_size)
    loader = Loader(dataset, config, compute.device)
    learner.score(loader.evaluation("val"))
    passes, began = 0, time.perf_counter()
    # A pass ends with its score on the host, so the device is done.
    while time.perf_counter() - began < 1:
        learner.score(loader.evaluation("val"))
        passes += 1
    speed = passes * len(dataset.val) / (time.perf_counter() - began)
    return {"images_per_second": speed, "images": len(dataset.val), "device": compute.device_name}


def _table(study: Study[Start]) -> Table:
    rows, captions = [], []
    for name, starts in study.results().items():
        times = [str(study.spread(name, quantity) or "") for quantity in ("first_step", "first_point", "seconds")]
        rows.append((name, *times, *(study.median(name, f"{place}_bytes", scale=1e-6) for place in ("host", "device"))))
        if name != TORCH:
            first = starts[-1].imported_by_first_step
            later = [module for module in starts[-1].imported_by_the_end if module not in first]
            captions.append(f"{name}, heavy imports before the first step: {', '.join(first)}")
            captions.append(f"{name}, after it: {', '.join(later) or 'none'}")
    right = ("first step", "first TensorBoard point", "end", "peak host MB", "peak device MB")
    made = table("Seconds after the start of the process, median (range)", ["process"], right, rows)
    made.caption_justify = "left"
    made.caption = "\n".join(captions)
    return made
