"""Batches of raw images, read by background threads a few batches ahead of the one in use.

Threads, not processes: decoders and numpy's copies let other threads run, and threads end with their process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_BATCHES_AHEAD = 4
# More buffers than batches ahead: one is in use, from two others copies to the device may be under way.
_BUFFERS = _BATCHES_AHEAD + 3


class Reader(Protocol):
    """Where raw images come from, by position; `threads` read at once."""

    threads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, channels, height, width)."""

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """Write the images at these positions to `out` (len(index), height, width, channels) uint8."""


class MemoryReader:
    """Images (count, height, width, channels) uint8 in this machine's memory."""

    threads = 1

    def __init__(self, images: Tensor) -> None:
        self._images = images.numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, channels, height, width)."""
        count, height, width, channels = self._images.shape
        return count, channels, height, width

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """Copy the images at these positions to `out`."""
        # numpy, since torch would start a team of threads for every thread that calls it; "clip" spares a copy.
        np.take(self._images, index, axis=0, out=out, mode="clip")


@dataclass
class Buffer:
    """Memory for a batch; `copied` is the event after which it may be written to again, None: at once."""

    memory: Tensor
    count: int = 0
    copied: torch.cuda.Event | None = None

    @property
    def images(self) -> Tensor:
        """The batch (count, height, width, channels) uint8."""
        return self.memory[: self.count]


def read_ahead(reader: Reader, batches: Iterable[Tensor], size: int, pinned: bool) -> Generator[Buffer]:
    """The images of each batch of positions (int64, at most `size` of them), in order.

    A buffer is the caller's until the next one is asked for and, where the caller gave it one, until its event.
    Closing the generator ends its threads.

    Raises:
        UserError: what the reader raises, when its batch is asked for.
    """
    _, channels, height, width = reader.shape
    shape = (size, height, width, channels)
    free = deque(Buffer(torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)) for _ in range(_BUFFERS))
    upcoming = iter(batches)
    pool = ThreadPoolExecutor(reader.threads, "read ahead")

    def begin(index: Tensor) -> tuple[Buffer, list[Future[None]]]:
        buffer = free.popleft()
        if buffer.copied is not None:
            # Given back two batches ago: its copy is over, unless copying is what the run is waiting for.
            buffer.copied.synchronize()
        buffer.count, buffer.copied = len(index), None
        positions, out = index.numpy(), buffer.images.numpy()
        step = -(-len(index) // reader.threads)
        parts = [slice(start, start + step) for start in range(0, len(index), step)]
        return buffer, [pool.submit(reader.read, positions[part], out[part]) for part in parts]

    try:
        begun = deque(begin(index) for index in islice(upcoming, _BATCHES_AHEAD))
        while begun:
            buffer, tasks = begun.popleft()
            for task in tasks:
                task.result()
            begun.extend(begin(index) for index in islice(upcoming, 1))
            yield buffer
            free.append(buffer)
    finally:
        pool.shutdown(cancel_futures=True)
