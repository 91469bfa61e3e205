"""The batches of an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.config import Config
from harness.data.augment import EpochAugmentation, Normalisation, PixelCrops, RowCrops, augmentations, padded
from harness.data.dataset import Dataset
from harness.data.feeds import Part, ResidentPart, StreamedPart
from harness.data.storage import belongs_on_device
from harness.errors import UserError, in_words
from harness.seeding import generator


class Loader:
    """The normalised batches of a data set, on the device.

    Wherever the images lie (`data.storage`), a batch is shuffled, cropped and flipped as a whole on the device. The
    choices of an epoch follow from (seed, epoch) and are drawn on the CPU, so every storage and device gives the same
    batches. On CUDA, nothing here waits for the device.

    Raises:
        UserError: for data.storage=device, when the images do not fit there, and for augmentations that do not suit
            them.
    """

    def __init__(self, dataset: Dataset, config: Config, device: torch.device) -> None:
        data, self.batch_size, self.seed, self.device = config.data, config.batch_size, config.seed, device
        self.flip, self.padding, self._shape = data.flip, data.crop_padding, dataset.shape
        self._augmentations = augmentations(config)
        for augmentation in self._augmentations:  # a trial, so that what does not fit is refused before training
            augmentation.draw(1, self._shape, torch.Generator(), self._sent)
        self._normalise = Normalisation(dataset.mean, dataset.std, *dataset.shape[1:], device)
        parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        self._labels = {name: part.labels.to(device) for name, part in parts.items()}
        in_files = dataset.train.images.in_files
        try:
            if in_files or not belongs_on_device(data, self._bytes(dataset), device):
                streamed = {name: StreamedPart(part, self.batch_size, device) for name, part in parts.items()}
                self._train: Part | Tensor = streamed.pop("train")
                self._held_out: dict[str, Part] = {**streamed}
            else:
                resident = {name: ResidentPart(part, device) for name, part in parts.items()}
                train = resident.pop("train")
                # A GPU crops out of the padded images themselves, which spares it a copy of each batch.
                self._train = padded(train.images, self.padding) if device.type == "cuda" else train
                self._held_out = {**resident}
        except torch.OutOfMemoryError:
            needed = in_words(self._bytes(dataset))
            raise UserError(
                f"data.storage={data.storage}: {needed} of images do not fit on {device}; must be host"
            ) from None

    def _bytes(self, dataset: Dataset) -> int:
        channels, height, width = dataset.shape
        padded_train = len(dataset.train) * (height + 2 * self.padding) * (width + 2 * self.padding)
        return channels * (padded_train + (len(dataset.val) + len(dataset.test)) * height * width)

    def train(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images float32 in channels-last order, labels) of every training image once, in random order.

        Raises as `Part`.
        """
        rng = generator(self.seed, "batches", epoch)
        labels = self._labels["train"]
        order = torch.randperm(len(labels), generator=rng)
        choices = EpochAugmentation.draw(len(labels), self.padding, self.flip, rng)
        changes = [each.draw(len(labels), self._shape, rng, self._sent) for each in self._augmentations]
        on_device = self._sent(order).split(self.batch_size)
        cropped = self._cropped_by_gpu if self.device.type == "cuda" else self._cropped_by_cpu
        for raw, index, chosen in zip(cropped(order, choices), on_device, self._slices(order), strict=True):
            images, targets = self._normalise(raw), labels.index_select(0, index)
            for change in changes:
                images, targets = change(images, targets, chosen)
            yield images, targets

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the part `val` or `test` in its own order, not augmented; raises as `Part`."""
        labels = self._labels[part].split(self.batch_size)
        for images, batch in zip(self._held_out[part].in_order(self.batch_size), labels, strict=True):
            yield self._normalise(images), batch

    def _cropped_by_cpu(self, order: Tensor, choices: EpochAugmentation) -> Iterator[Tensor]:
        """Cropped and flipped batches (batch, height, width, channels) uint8."""
        channels, height, width = self._shape
        crop = RowCrops(choices, height, width, channels)
        assert not isinstance(self._train, Tensor)
        raw = self._train.batches(order.split(self.batch_size))
        for images, chosen in zip(raw, self._slices(order), strict=True):
            yield crop(images, chosen)

    def _cropped_by_gpu(self, order: Tensor, choices: EpochAugmentation) -> Iterator[Tensor]:
        """The same, in a few large operations."""
        _, height, width = self._shape
        slices = self._slices(order)
        batches: Iterator[Tensor]
        if isinstance(self._train, Tensor):
            places, batches = order, itertools.repeat(self._train, len(slices))
        else:
            places = torch.arange(len(order)) % self.batch_size
            raw = self._train.batches(order.split(self.batch_size))
            batches = (padded(images, self.padding) for images in raw)
        crop = PixelCrops(choices, places, height, width, self._sent)
        for images, chosen in zip(batches, slices, strict=True):
            yield crop(images, chosen)

    def _slices(self, order: Tensor) -> list[slice]:
        return [slice(start, start + self.batch_size) for start in range(0, len(order), self.batch_size)]

    def _sent(self, values: Tensor) -> Tensor:
        """A copy on the device that, on CUDA, nothing waits for."""
        return values.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else values
