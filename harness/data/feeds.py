"""The images of one part of a data set, given in batches of raw ones on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from harness.data.images import Split


class Part(Protocol):
    """Gives batches (batch, height, width, channels) uint8 on the device, each valid until the next is asked for.

    Raises:
        UserError: naming a file that is gone, changed or damaged.
    """

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images at each batch of positions (int64, on the CPU)."""

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images in their own order."""


class ResidentPart:
    """Images that all lie on the device, as `images` (count, height, width, channels) uint8."""

    def __init__(self, part: Split, device: torch.device) -> None:
        self.images = part.images.decoded().pixels.to(device)

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `Part`; only for images on the CPU."""
        flat = self.images.flatten(1)
        for index in batches:
            yield flat.index_select(0, index).view(-1, *self.images.shape[1:])

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """As `Part`."""
        yield from self.images.split(batch_size)


class StreamedPart:
    """Images in host memory or in files: read by threads ahead of their use, copied while the device computes."""

    def __init__(self, part: Split, batch_size: int, device: torch.device) -> None:
        self._images, self._batch_size, self._device = part.images, batch_size, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `Part`."""
        pinned = self._stream is not None
        with closing(read_ahead(self._images, batches, self._batch_size, pinned)) as buffers:
            for buffer in buffers:
                yield buffer.images if self._stream is None else self._copied(buffer, self._stream)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """As `Part`."""
        yield from self.batches(torch.arange(self._images.shape[0]).split(batch_size))

    def _copied(self, buffer: Buffer, stream: torch.cuda.Stream) -> Tensor:
        """The buffer's images on the device, for work that is given to the device's current stream from now on."""
        with torch.cuda.stream(stream):
            images = buffer.images.to(self._device, non_blocking=True)
            buffer.copied = stream.record_event()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(buffer.copied)
        # Else the memory, which belongs to the copying stream, could be given to the next copy while in use.
        images.record_stream(current)
        return images


_BATCHES_AHEAD = 4

# More buffers than batches ahead: one is in use, from two others copies to the device may be under way.
_BUFFERS = _BATCHES_AHEAD + 3


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


class Readable(Protocol):
    """What of `Images` it takes to read them ahead."""

    threads: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Images`."""

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """As `Images`."""


def read_ahead(source: Readable, batches: Iterable[Tensor], size: int, pinned: bool) -> Generator[Buffer]:
    """The images of each batch of positions (int64, at most `size` of them), in order.

    A buffer is the caller's until the next one is asked for and, where the caller gave it one, until its event.
    Closing the generator ends its threads.

    Raises:
        UserError: what the source raises, when its batch is asked for.
    """
    _, channels, height, width = source.shape
    shape = (size, height, width, channels)
    free = deque(Buffer(torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)) for _ in range(_BUFFERS))
    upcoming = iter(batches)
    pool = ThreadPoolExecutor(source.threads, "read ahead")

    def begin(index: Tensor) -> tuple[Buffer, list[Future[None]]]:
        buffer = free.popleft()
        if buffer.copied is not None:
            # Given back two batches ago: its copy is over, unless copying is what the run is waiting for.
            buffer.copied.synchronize()
        buffer.count, buffer.copied = len(index), None
        positions, out = index.numpy(), buffer.images.numpy()
        step = -(-len(index) // source.threads)
        parts = [slice(start, start + step) for start in range(0, len(index), step)]
        return buffer, [pool.submit(source.read, positions[part], out[part]) for part in parts]

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
