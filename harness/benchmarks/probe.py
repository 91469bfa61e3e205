"""Many runs on one GPU: would training several at once in one process pay?

Runs that differ in their seed train on batches that lie on the device, each step a CUDA graph: one run after the other;
N at once in one process, a graph and a stream each, replayed in turn; and N at once in N processes, also through
NVIDIA's Multi-Process Service where its control program is there. On the CPU plain steps stand in for graphs.
A time is milliseconds of wall clock over steps of all runs together, so that equal times mean nothing gained.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from harness.app.compose import compose_config
from harness.benchmarks.study import Row, Study, count, measured, parser, table
from harness.config import Config
from harness.machine import spare_the_collector
from harness.models.build import build_model
from harness.training.devices import Compute, set_up
from harness.training.learner import initial_network
from harness.training.loop import Step, TrainStep
from harness.training.optim import build_optimizer
from harness.training.state import weights_sha256
from harness.training.steps import GraphedStep, training_objective
from harness.views.style import COLOURS, DASHES, MARK, margins

WORTH_BUILDING = 2.0
ONE, MANY, MPS = "one process", "N processes", "N processes with MPS"
_MPS_CONTROL = "nvidia-cuda-mps-control"
_NETWORKS = ("small_cnn", "resnet20")
# More than the graph needs to be recorded.
_WARM_UP_STEPS = 5
_PATIENCE = 120  # seconds that a process waits for the others


def main(arguments: Sequence[str]) -> None:
    """Measure every network in every way, or, as its own process is started, one."""
    made = parser("probe", __doc__, rounds=1)
    made.add_argument("--counts", type=_counts, default=[1, 2, 4, 8, 15], help="runs at once (default: 1,2,4,8,15)")
    made.add_argument("--batches", type=_counts, default=[128, 512], help="batch sizes (default: 128,512)")
    made.add_argument("--steps", type=count, default=100, help="steps of each run in a timed part (default: 100)")
    made.add_argument("--repeats", type=count, default=3, help="timed parts of each kind (default: 3)")
    made.add_argument("--measure", nargs=2, metavar=("NETWORK", "WAY"), help="in this process, and print JSON")
    options = made.parse_intermixed_args(list(arguments))
    # As many queues to the GPU as there may be, or streams wait for each other; read when CUDA starts.
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "32"
    if options.measure:
        print(json.dumps(_measured(options, *options.measure)))
        return
    for network in _NETWORKS:
        _config(options, network)
    missing = shutil.which(_MPS_CONTROL) is None
    ways = [ONE, MANY, *([] if missing else [MPS])]
    _Probe(options, ways).run([f"skipped: {MPS}: there is no {_MPS_CONTROL}"] if missing else [])


def _config(options: Namespace, network: str) -> Config:
    """Of the data only the images' shape matters."""
    return compose_config(["data=synthetic", *options.overrides, f"model={network}"])[0]


def _counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def _named(network: str, way: str) -> str:
    return f"{network}, {way}"


class _Probe(Study):
    """A row holds `milliseconds[way][batch][N]`, medians, and for one process whether `equal[batch][N]`."""

    def __init__(self, options: Namespace, ways: Sequence[str]) -> None:
        self.places = {_named(network, way): (network, way) for network in _NETWORKS for way in ways}
        known = {name: getattr(options, name) for name in ("counts", "batches", "steps", "repeats")}
        super().__init__(options, [list(self.places)], {**known, "ways": list(ways)})

    def measure(self, name: str) -> Row:
        options = self.options
        sizes = [f"--{key}={','.join(map(str, getattr(options, key)))}" for key in ("counts", "batches")]
        sizes += [f"--{key}={getattr(options, key)}" for key in ("steps", "repeats")]
        return measured("probe", [*options.overrides, *sizes, "--measure", *self.places[name]])

    def said(self, row: Row) -> str:
        return f"{row['seconds']:.0f} s"

    def milliseconds(self, network: str, way: str, batch: int, runs: int) -> float | None:
        """Of one step, median over rounds; None where it is not measured."""
        rows = self.results().get(_named(network, ONE if way == "alone" else way), [])
        return statistics.median(row["milliseconds"][way][str(batch)][str(runs)] for row in rows) if rows else None

    def gain(self, network: str, way: str, batch: int, runs: int) -> float | None:
        """How many times as fast as one after the other."""
        alone, together = (self.milliseconds(network, each, batch, runs) for each in ("alone", way))
        return alone / together if alone and together else None

    def gains(self, way: str) -> dict[tuple[str, int, int], float]:
        """By network, batch and number of runs, those of several runs."""
        places = [(network, batch, runs) for network in _NETWORKS for batch in self.options.batches
                  for runs in self.options.counts if runs > 1]  # fmt: skip
        return {place: gain for place in places if (gain := self.gain(place[0], way, *place[1:])) is not None}

    def wrong(self) -> list[str]:
        return [
            f"{name}, batch {batch}: {runs} runs at once end with other bits than one after the other"
            for name, rows in self.results().items()
            for row in rows
            for batch, by_count in row.get("equal", {}).items()
            for runs, equal in by_count.items()
            if not equal
        ]

    def conclusion(self) -> str:
        """What the best gain means."""
        if not (gains := self.gains(ONE)):
            return "no conclusion: several runs in one process are not measured"
        network, batch, runs = best = max(gains, key=gains.__getitem__)
        reached = gains[best] >= WORTH_BUILDING and not self.wrong()
        bits = "bits differ" if self.wrong() else "equal bits"
        others = [f"{way} {max(found.values()):.2f}" if (found := self.gains(way)) else f"{way} not measured"
                  for way in (MANY, MPS)]  # fmt: skip
        return (
            f"best in one process: {gains[best]:.2f} times one after the other ({network}, batch {batch}, {runs} runs; "
            f"{bits}); {'reaches' if reached else 'does not reach'} {WORTH_BUILDING:.1f}, "
            f"{'' if reached else 'not '}worth building. At best {'; '.join(others)}"
        )

    def record(self) -> dict[str, Any]:
        return {**super().record(), "conclusion": self.conclusion(), "wrong": self.wrong()}

    def table(self) -> Table:
        rows = []
        for network in _NETWORKS:
            for batch in self.options.batches:
                for runs in self.options.counts:
                    alone = self.milliseconds(network, "alone", batch, runs)
                    cells = [self._cell(network, way, batch, runs) for way in (ONE, MANY, MPS)]
                    rows.append((network, str(batch), str(runs), f"{alone:.3f}" if alone else "", *cells))
        device = (self.first() or {}).get("device", "not measured")
        right = ("batch", "N runs", "one after the other", ONE, MANY, MPS)
        made = table(f"Milliseconds a step (times as fast), {device}", ["network"], right, rows)
        made.caption = self.conclusion()
        return made

    def _cell(self, network: str, way: str, batch: int, runs: int) -> str:
        milliseconds, gain = self.milliseconds(network, way, batch, runs), self.gain(network, way, batch, runs)
        return (f"{milliseconds:.3f}" if milliseconds else "") + (f" ({gain:.2f})" if gain else "")

    def chart(self) -> Figure | None:
        """A panel for each network and batch size; in it the gain of each way over the number of runs."""
        found = {way: gains for way in (ONE, MANY, MPS) if (gains := self.gains(way))}
        if not found:
            return None
        places = [(network, batch) for network in _NETWORKS for batch in self.options.batches]
        figure = Figure(figsize=(3 * len(places), 3.6))
        margins(figure, left=0.7, bottom=0.6)
        panes = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
        for pane, place in zip(panes, places, strict=True):
            for (way, gains), colour, dashes in zip(found.items(), COLOURS, DASHES, strict=False):
                line = {key[2]: gain for key, gain in gains.items() if key[:2] == place}
                pane.plot(list(line), list(line.values()), "o", label=way, color=colour, linestyle=dashes)
            pane.axhline(WORTH_BUILDING, color=MARK, linestyle=":", linewidth=1)
            pane.set_ylim(bottom=0)
            pane.set_title(f"{place[0]}, batch {place[1]}", fontsize=9)
            pane.set_xlabel("runs at once")
        panes[0].set_ylabel("times as fast as one after the other")
        panes[0].legend(fontsize=8)
        return figure


@dataclass(frozen=True)
class _Lane:
    """One run: its step on its own batch, on its own stream (None: the device's usual one)."""

    compute: Compute
    step: Step
    batch: tuple[Tensor, Tensor]
    stream: torch.cuda.Stream | None

    def train(self, steps: int) -> None:
        """Train; the device is not waited for."""
        with torch.cuda.stream(self.stream):
            for _ in range(steps):
                self.step(*self.batch)

    def weights(self) -> str:
        """Their SHA-256, once the device is done."""
        self.compute.synchronize()
        return weights_sha256(self.step.network)


def _lane(config: Config, seed: int, batch_size: int, stream: torch.cuda.Stream | None) -> _Lane:
    """A run that is warmed up; where there is a stream, as a graph."""
    config = config.model_copy(update={"seed": seed, "batch_size": batch_size})
    compute = set_up(config)
    shape = (config.data.channels, config.data.image_size, config.data.image_size)  # type: ignore[union-attr]
    network = initial_network(
        config, compute, lambda: build_model(config.model, shape, 10, [batch_size]), torch.channels_last
    )
    optimizer, objective = build_optimizer(config.optimizer, network), training_objective(config)
    plain = TrainStep(network, optimizer, compute.scaler(), compute.autocast(), objective)
    step = plain if stream is None else GraphedStep(plain, batch_size, stream)
    images = torch.randn(batch_size, *shape, device=compute.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,), device=compute.device)
    # The lane's stream must not begin before they are there.
    compute.synchronize()
    network.train()
    lane = _Lane(compute, step, (images, labels), stream)
    lane.train(_WARM_UP_STEPS)
    compute.synchronize()
    return lane


def _measured(options: Namespace, network: str, way: str) -> Row:
    """One network in one way, at every batch size and for every number of runs."""
    began = time.monotonic()
    config = _config(options, network)
    spare_the_collector()
    ways = {ONE: _in_one_process, MANY: _in_processes, MPS: _in_processes_with_mps}
    row = ways[way](config, options)
    return {**row, "seconds": time.monotonic() - began}


def _in_one_process(config: Config, options: Namespace) -> Row:
    """Both one after the other and at once, with the same seeds, so that weights can be compared."""
    compute, most = set_up(config), max(options.counts)
    # Held in one list: torch hands its streams out again and again, and those of a list are all different.
    streams = [torch.cuda.Stream() if compute.device.type == "cuda" else None for _ in range(most)]
    alone: dict[str, dict[str, float]] = {str(batch): {} for batch in options.batches}
    together = {batch: dict(nothing) for batch, nothing in alone.items()}
    equal: dict[str, dict[str, bool]] = {batch: {} for batch in alone}
    for batch in options.batches:
        lanes = [_lane(config, seed, batch, streams[seed]) for seed in range(most)]
        times = [[_seconds(compute, lambda: lane.train(options.steps)) for lane in lanes]  # noqa: B023
                 for _ in range(options.repeats)]  # fmt: skip
        weights = [lane.weights() for lane in lanes]
        for runs in options.counts:
            per_step = 1e3 / (runs * options.steps)
            alone[str(batch)][str(runs)] = per_step * statistics.median(sum(each[:runs]) for each in times)
            lanes = [_lane(config, seed, batch, streams[seed]) for seed in range(runs)]
            seconds = [_seconds(compute, lambda: _in_turn(lanes, options.steps)) for _ in range(options.repeats)]  # noqa: B023
            together[str(batch)][str(runs)] = per_step * statistics.median(seconds)
            equal[str(batch)][str(runs)] = [lane.weights() for lane in lanes] == weights[:runs]
    where = {"device": compute.device_name, "precision": compute.precision}
    return {**where, "milliseconds": {"alone": alone, ONE: together}, "equal": equal}


def _in_turn(lanes: Sequence[_Lane], steps: int) -> None:
    for _ in range(steps):
        for lane in lanes:
            lane.train(1)


def _seconds(compute: Compute, action: Callable[[], None]) -> float:
    compute.synchronize()
    began = time.monotonic()
    action()
    compute.synchronize()
    return time.monotonic() - began


def _in_processes(config: Config, options: Namespace, way: str = MANY) -> Row:
    """As many processes as there may be runs; for N runs the first N of them train, the others wait."""
    most, spawn = max(options.counts), multiprocessing.get_context("spawn")
    tasks = [(config, options, index) for index in range(most)]
    with ProcessPoolExecutor(most, spawn, _meet, (spawn.Barrier(most, timeout=_PATIENCE),)) as pool:
        # None of them ends before all have begun, so each has a process of its own.
        told = list(pool.map(_take_part, tasks))
    found: dict[str, dict[str, float]] = {str(batch): {} for batch in options.batches}
    for batch in options.batches:
        for runs in options.counts:
            parts = [[one["times"][f"{batch} {runs} {repeat}"] for one in told[:runs]]
                     for repeat in range(options.repeats)]  # fmt: skip
            walls = [max(end for _, end in part) - min(began for began, _ in part) for part in parts]
            found[str(batch)][str(runs)] = 1e3 * statistics.median(walls) / (runs * options.steps)
    return {**told[0]["where"], "milliseconds": {way: found}}


_barrier: Barrier


def _meet(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _take_part(task: tuple[Config, Namespace, int]) -> dict[str, Any]:
    """The beginning and end of each timed part that this process trained in, on a clock that all of them share."""
    config, options, index = task
    spare_the_collector()
    compute, times = set_up(config), {}
    stream = torch.cuda.Stream() if compute.device.type == "cuda" else None
    for batch in options.batches:
        lane = _lane(config, index, batch, stream)
        for runs in options.counts:
            for repeat in range(options.repeats):
                _barrier.wait()
                began = time.monotonic()
                if index < runs:
                    lane.train(options.steps)
                    compute.synchronize()
                    times[f"{batch} {runs} {repeat}"] = (began, time.monotonic())
                _barrier.wait()
    return {"times": times, "where": {"device": compute.device_name, "precision": compute.precision}}


def _in_processes_with_mps(config: Config, options: Namespace) -> Row:
    with _service():
        return _in_processes(config, options, MPS)


@contextmanager
def _service() -> Iterator[None]:
    """NVIDIA's Multi-Process Service, for processes that begin meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        os.environ.update(CUDA_MPS_PIPE_DIRECTORY=folder, CUDA_MPS_LOG_DIRECTORY=folder)
        subprocess.run([_MPS_CONTROL, "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run([_MPS_CONTROL], input="quit\n", text=True, check=False)
