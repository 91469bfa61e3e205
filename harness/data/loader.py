"""The batches of an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.config import DataConfig
from harness.data.augment import Cutout, EpochAugmentation, Normalisation, PixelCrops, RowCrops, padded
from harness.data.dataset import Dataset
from harness.data.feeds import Part, ResidentPart, StreamedPart
from harness.data.images import ImageFiles
from harness.data.storage import belongs_on_device, in_words
from harness.errors import UserError
from harness.seeding import generator


class Loader:
    """The normalised batches of a data set, on the device.

    Wherever the images lie (`data.storage`), a batch is shuffled, cropped and flipped as a whole on the device. The
    choices of an epoch follow from (seed, epoch) and are drawn on the CPU, so every storage and device gives the same
    batches. On CUDA, nothing here waits for the device.

    Raises:
        UserError: for data.storage=device, when the images do not fit there, and for a cutout as large as an image.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, batch_size: int, seed: int, device: torch.device) -> None:
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.flip, self.padding, self.cutout = config.flip, config.crop_padding, config.cutout
        self._shape = dataset.shape
        _, height, width = dataset.shape
        if self.cutout >= min(height, width):
            raise UserError(
                f"data.cutout={self.cutout}: must be below {min(height, width)}, the images' shorter side in pixels"
            )
        self._normalise = Normalisation(dataset.mean, dataset.std, height, width, device)
        parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        self._labels = {name: part.labels.to(device) for name, part in parts.items()}
        self._parts: dict[str, Part] = {}
        self._padded: Tensor | None = None
        if isinstance(dataset.train.images, ImageFiles) or not belongs_on_device(config, self._bytes(dataset), device):
            self._parts = {name: StreamedPart(part, batch_size, device) for name, part in parts.items()}
            return
        try:
            resident = {name: ResidentPart(part, device) for name, part in parts.items()}
            if device.type == "cuda":
                # A GPU crops out of the padded images themselves, which spares it a copy of each batch.
                self._padded = padded(resident.pop("train").images, self.padding)
        except torch.OutOfMemoryError:
            needed = in_words(self._bytes(dataset))
            raise UserError(
                f"data.storage={config.storage}: {needed} of images do not fit on {device}; must be host"
            ) from None
        self._parts = dict(resident)

    def _bytes(self, dataset: Dataset) -> int:
        channels, height, width = dataset.shape
        padded_train = len(dataset.train) * (height + 2 * self.padding) * (width + 2 * self.padding)
        return channels * (padded_train + (len(dataset.val) + len(dataset.test)) * height * width)

    def train(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images float32 in channels-last order, labels) of every training image once, in random order.

        Raises:
            UserError: naming a file that is gone, changed or damaged.
        """
        rng = generator(self.seed, "batches", epoch)
        labels = self._labels["train"]
        order = torch.randperm(len(labels), generator=rng)
        choices = EpochAugmentation.draw(len(labels), self.padding, self.flip, rng)
        on_device = self._sent(order).split(self.batch_size)
        cropped = self._cropped_by_gpu if self.device.type == "cuda" else self._cropped_by_cpu
        blank = self._cutout(len(labels), rng)
        for images, index, chosen in zip(cropped(order, choices), on_device, self._slices(order), strict=True):
            yield blank(self._normalise(images), chosen), labels.index_select(0, index)

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the part `val` or `test` in its own order, not augmented.

        Raises:
            UserError: naming a file that is gone, changed or damaged.
        """
        labels = self._labels[part].split(self.batch_size)
        for images, batch in zip(self._parts[part].in_order(self.batch_size), labels, strict=True):
            yield self._normalise(images), batch

    def _cutout(self, count: int, rng: torch.Generator) -> Callable[[Tensor, slice], Tensor]:
        if not self.cutout:
            return lambda images, _: images
        _, height, width = self._shape
        return Cutout(self.cutout, count, height, width, rng, self._sent)

    def _cropped_by_cpu(self, order: Tensor, choices: EpochAugmentation) -> Iterator[Tensor]:
        """Cropped and flipped batches (batch, height, width, channels) uint8."""
        channels, height, width = self._shape
        crop = RowCrops(choices, height, width, channels)
        raw = self._parts["train"].batches(order.split(self.batch_size))
        for images, chosen in zip(raw, self._slices(order), strict=True):
            yield crop(images, chosen)

    def _cropped_by_gpu(self, order: Tensor, choices: EpochAugmentation) -> Iterator[Tensor]:
        """The same, in a few large operations."""
        _, height, width = self._shape
        slices = self._slices(order)
        batches: Iterator[Tensor]
        if self._padded is not None:
            places, batches = order, itertools.repeat(self._padded, len(slices))
        else:
            places = torch.arange(len(order)) % self.batch_size
            raw = self._parts["train"].batches(order.split(self.batch_size))
            batches = (padded(images, self.padding) for images in raw)
        crop = PixelCrops(choices, places, height, width, self._sent)
        for images, chosen in zip(batches, slices, strict=True):
            yield crop(images, chosen)

    def _slices(self, order: Tensor) -> list[slice]:
        return [slice(start, start + self.batch_size) for start in range(0, len(order), self.batch_size)]

    def _sent(self, values: Tensor) -> Tensor:
        """A copy on the device that, on CUDA, nothing waits for."""
        return values.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else values
