"""Time to accuracy: wall seconds from the start of a process that trains until its network has an accuracy.

A round is a run with the next seed, in a process of its own, with all that train.py does by default and its files, but
for the overrides. Aimed at is test accuracy, looked at once at the end. The validation accuracies on the way and when
they were there are told as well. A run that ends below the aim is no success, and the command fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from harness.app.compose import compose_config
from harness.benchmarks import BENCHMARK
from harness.benchmarks.study import MeasurementError, Row, Study, parser, table
from harness.benchmarks.work import described, take_images_from
from harness.config import Config
from harness.data.sources import find
from harness.files import read_object
from harness.machine import spare_the_collector
from harness.record import METRICS_FILE, RUN_FILE
from harness.runs.request import Request
from harness.runs.run import run
from harness.views.style import COLOURS, MARK, margins


def main(arguments: Sequence[str]) -> None:
    """Measure all rounds, or, as its own process is started, train once."""
    made = parser("accuracy", __doc__, rounds=1)
    made.add_argument("--aim", type=_fraction, required=True, help="the test accuracy to reach, above 0 and up to 1")
    made.add_argument("--images", type=Path, help="decoded images that a benchmark saved, in place of the data's own")
    made.add_argument("--folder", type=Path, help="train into this new folder, in this process, and print JSON")
    options = made.parse_intermixed_args(list(arguments))
    config, name = compose_config(options.overrides)
    told = take_images_from(options.images) if options.images else ""
    if options.folder:
        print(json.dumps(_trained(Request(config, name, options.folder, resume=False))))
        return
    _Accuracy(options, config, told or described(config.data, find(config.data).read())).run()


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0 and up to 1")
    return value


class _Accuracy(Study):
    """A row holds `test_accuracy`, whether it `reached` the aim, the seconds of it all, `wall_seconds`, and of its
    epochs alone, `epoch_seconds`, and `epochs`: validation accuracy and wall seconds of each. `under_way` are those of
    a run that has not ended."""

    def __init__(self, options: Namespace, config: Config, data: str) -> None:
        self.name = f"{config.model.name}, {config.epochs} epochs"
        known = {"config": config.plain(), "aim": options.aim, "data": data}
        super().__init__(options, [[self.name]], known)
        self.under_way: list[Row] = []

    def measure(self, name: str) -> Row:
        images = ["--images", str(self.options.images)] if self.options.images else []
        seed = len(self.rounds[name])
        with tempfile.TemporaryDirectory(prefix="accuracy-") as scratch:
            folder = Path(scratch) / "run"
            asked = [*self.options.overrides, f"seed={seed}", "--aim", str(self.options.aim), *images]
            line = [sys.executable, str(BENCHMARK), "accuracy", *asked, "--folder", str(folder)]
            began = time.monotonic()
            with (Path(scratch) / "said.txt").open("w+") as said:
                process = subprocess.Popen(line, stdout=said, stderr=said)
                while process.poll() is None:
                    self._look(folder / METRICS_FILE, began)
                    time.sleep(0.02)
                said.seek(0)
                text = said.read().strip()
            self._look(folder / METRICS_FILE, began)
        if process.returncode != 0:
            raise MeasurementError(f"exit status {process.returncode}: {text[-2000:]}")
        row: Row = json.loads(text.splitlines()[-1])
        epochs, self.under_way = self.under_way, []
        wall = {"wall_seconds": row.pop("ended") - began}
        return {"seed": seed, "reached": row["test_accuracy"] >= self.options.aim, **wall, **row, "epochs": epochs}

    def _look(self, metrics: Path, began: float) -> None:
        """Take down the epochs that are new, with the time."""
        whole = metrics.read_text().rpartition("\n")[0].splitlines() if metrics.exists() else []
        if new := whole[len(self.under_way) :]:
            told = [{key: json.loads(line)[key] for key in ("epoch", "val_accuracy")} for line in new]
            self.under_way += [{**one, "wall_seconds": time.monotonic() - began} for one in told]
            self.leave()

    def said(self, row: Row) -> str:
        return f"test accuracy {row['test_accuracy']:.2%} in {row['wall_seconds']:.1f} s"

    def record(self) -> dict[str, Any]:
        return {**super().record(), "under_way": self.under_way, "missed": self.wrong()}

    def wrong(self) -> list[str]:
        return [
            f"missed: test accuracy {row['test_accuracy']:.2%} of {self.options.aim:.2%} aimed at, seed {row['seed']}"
            for row in self.results().get(self.name, [])
            if not row["reached"]
        ]

    def table(self) -> Table:
        rows = []
        for row in self.results().get(self.name, []):
            first = next((e for e in row["epochs"] if (e["val_accuracy"] or 0) >= self.options.aim), None)
            val = f"epoch {first['epoch']}, {first['wall_seconds']:.1f} s" if first else "never"
            seconds = [f"{row[what]:.1f}" for what in ("wall_seconds", "epoch_seconds")]
            reached = "yes" if row["reached"] else "NO"
            aim, test = f"{self.options.aim:.2%}", f"{row['test_accuracy']:.2%}"
            rows.append((str(row["seed"]), aim, test, reached, *seconds, val))
        if self.under_way:
            last = self.under_way[-1]
            val = f"epoch {last['epoch']}: {last['val_accuracy'] or 0:.2%}, {last['wall_seconds']:.1f} s"
            rows.append((str(len(rows)), f"{self.options.aim:.2%}", "", "not ended", "", "", val))
        device = (self.first() or {}).get("device", "no run ended")
        right = ("aim", "test accuracy", "reached", "wall s", "s of epochs", "validation there")
        made = table(f"Time to accuracy: {self.name}, {device}", ["seed"], right, rows)
        made.caption = f"data: {self.known['data']}"
        return made

    def chart(self) -> Figure | None:
        """Validation accuracy over wall seconds, a line for each run."""
        runs = [row["epochs"] for row in self.results().get(self.name, [])] + [self.under_way]
        if not any(runs):
            return None
        figure = Figure(figsize=(7, 4))
        margins(figure, left=0.7, bottom=0.6)
        axes = figure.subplots()
        for epochs in runs:
            walls = [epoch["wall_seconds"] for epoch in epochs]
            axes.plot(walls, [epoch["val_accuracy"] for epoch in epochs], color=COLOURS[0], marker=".")
        axes.axhline(self.options.aim, color=MARK, linestyle=":", linewidth=1)
        axes.set_xlabel("wall seconds from the start of the process")
        axes.set_ylabel("validation accuracy")
        axes.set_title(f"{self.name}; dotted: the aim, {self.options.aim:.2%} of test images", fontsize=10)
        return figure


def _trained(request: Request) -> Row:
    """What the run came to; `ended` is on a clock that all processes share."""
    spare_the_collector()
    summary = run(request)
    ended = time.monotonic()
    identity = read_object(request.folder / RUN_FILE)["identity"]
    return {
        "ended": ended, "epoch_seconds": summary.seconds, "test_accuracy": summary.test_accuracy,
        "final_val_accuracy": summary.final_val_accuracy, "weights_sha256": summary.weights_sha256,
        "device": summary.device, "precision": identity["precision"], "fingerprint": identity["data.fingerprint"],
    }  # fmt: skip
