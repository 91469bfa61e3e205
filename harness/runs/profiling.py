"""A trace of some training steps by torch.profiler, and what it says in a few lines."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from harness.record import PROFILE

T = TypeVar("T")
log = logging.getLogger(__name__)

# The first steps set up what later ones find done; more than so many recorded steps tell nothing new.
_SKIPPED, _RECORDED = 10, 20
_SHOWN = 5
_BATCH = "next batch"


class StepProfile:
    """Records some steps of the second epoch that passes through, `folder/profile/epoch_E.pt.trace.json.gz`.

    In the first, kernels for every size of batch may still be compiled. The file opens in Perfetto, in chrome://tracing
    and in TensorBoard's profiler plugin.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._on_cuda, self.is_done = folder / PROFILE, device.type == "cuda", False
        self._is_warm = False

    def track(self, epoch: int, batches: Iterable[T], count: int, is_last: bool) -> Iterator[T]:
        """Pass the `count` batches of an epoch through; what is done between two of them is a step.

        The last epoch is recorded even if it is the first that passes.
        """
        if self.is_done or not (self._is_warm or is_last):
            self._is_warm = True
            yield from batches
            return
        self.is_done = True
        # Else the profiler's library reports on itself, and on the lack of a GPU as an error.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        skipped = min(_SKIPPED, count // 2)
        recorded = min(_RECORDED, count - skipped)
        # The profiler's own start falls into its warm-up step.
        plan = schedule(wait=max(0, skipped - 1), warmup=min(1, skipped), active=recorded, repeat=1)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_cuda else [])]
        with profile(activities=activities, schedule=plan, on_trace_ready=lambda done: self._report(epoch, done)) as it:
            for batch in _marked(batches):
                yield batch
                it.step()

    def _report(self, epoch: int, done: profile) -> None:
        path = self._folder / f"epoch_{epoch:05d}.pt.trace.json.gz"
        events = list(done.events() or ())
        steps = [event for event in events if event.name.startswith("ProfilerStep")]
        try:
            self._folder.mkdir(exist_ok=True)
            done.export_chrome_trace(str(path))
            log.info("profile: %d steps of epoch %d in %s (opens in Perfetto)", len(steps), epoch, path)
        except (OSError, RuntimeError) as error:
            # A trace is not worth a training.
            log.warning("profile: %s cannot be written: %s", path, error)
        costs = self._costs(events)
        total = sum(costs.values())
        if total:
            shares = (f"{name[:60]} {100 * cost / total:.0f} %" for name, cost in costs.most_common(_SHOWN))
            log.info("profile: costliest operations: %s", ", ".join(shares))
        wall = sum(event.time_range.elapsed_us() for event in steps if not _is_on_gpu(event))
        if wall:
            log.info("profile: %s %.1f %% of the time", *self._waited(events, wall))

    def _costs(self, events: Iterable[Any]) -> Counter[str]:
        """Microseconds by operation: kernels on CUDA, operators without what they call on the CPU."""
        costs: Counter[str] = Counter()
        for event in events:
            if event.is_user_annotation or event.name.startswith(("ProfilerStep", _BATCH)):
                continue
            if self._on_cuda and _is_on_gpu(event):
                costs[event.name] += event.time_range.elapsed_us()
            elif not self._on_cuda:
                costs[event.name] += event.self_cpu_time_total
        return costs

    def _waited(self, events: Iterable[Any], wall: float) -> tuple[str, float]:
        """What waited, in words, and for how many percent of `wall` microseconds."""
        if self._on_cuda:
            return "the GPU was idle", 100 * max(0.0, 1 - _busy(events) / wall)
        waited = sum(event.time_range.elapsed_us() for event in events if event.name == _BATCH)
        return "the network waited for batches", 100 * waited / wall


def _marked(batches: Iterable[T]) -> Iterator[T]:
    """The batches, with the making of each marked in the trace."""
    source = iter(batches)
    while True:
        with record_function(_BATCH):
            batch = next(source, None)
        if batch is None:
            return
        yield batch


def _is_on_gpu(event: Any) -> bool:
    return bool(event.device_type.name == "CUDA")


def _busy(events: Iterable[Any]) -> float:
    """Microseconds in which at least one kernel ran."""
    ranges = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if _is_on_gpu(event) and not event.is_user_annotation
    )
    busy, end = 0.0, float("-inf")
    for start, stop in ranges:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy
