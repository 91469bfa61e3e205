"""The images of one part of a data set, given in batches of raw ones on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from harness.image_files import ImageFiles
from harness.prefetch import Buffer, MemoryReader, Reader, read_ahead
from harness.splits import Split, pixels_last


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
        assert isinstance(part.images, Tensor)
        self.images = pixels_last(part.images).to(device)

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
        images = part.images
        self._reader: Reader = images if isinstance(images, ImageFiles) else MemoryReader(pixels_last(images))
        self._batch_size, self._device = batch_size, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `Part`."""
        pinned = self._stream is not None
        with closing(read_ahead(self._reader, batches, self._batch_size, pinned)) as buffers:
            for buffer in buffers:
                yield buffer.images if self._stream is None else self._copied(buffer, self._stream)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """As `Part`."""
        yield from self.batches(torch.arange(self._reader.shape[0]).split(batch_size))

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
