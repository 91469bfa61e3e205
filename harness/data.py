"""Data sets split into train, validation and test, and the batches of an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import sources
from harness.augment import Cutout, EpochAugmentation, Normalisation, PixelCrops, RowCrops, padded
from harness.config import DataConfig, ImageFolderData
from harness.errors import UserError
from harness.examine import examine
from harness.image_files import ImageFiles
from harness.parts import Part, ResidentPart, StreamedPart
from harness.seeding import generator
from harness.splits import Split, stratified
from harness.storage import belongs_on_device, belongs_on_disk, in_words, require_memory


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts and the names of the classes; `fingerprint` is the SHA-256 of all three parts.

    `mean` and `std` of the training images' pixels (0 to 255) are by channel.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


# The data set that was loaded last: the jobs of a sweep that share a process mostly want the same one.
_kept: tuple[Any, Dataset] | None = None


def load_dataset(config: DataConfig) -> Dataset:
    """Read the configured data and hold validation images out of its training images.

    A process keeps the data set that it loaded last, and gives it again for the same settings while the files that it
    was read from are the same by size, time and place.

    Raises:
        UserError: naming the folder searched, or the setting, for data that is missing, damaged or too small.
    """
    global _kept
    found = sources.find(config)
    key = (found.stamp, config.model_dump(exclude={"storage", "download"}))
    if _kept is not None and _kept[0] == key:
        on_disk = isinstance(_kept[1].train.images, ImageFiles)
        if config.storage == "auto" or (config.storage == "disk") == on_disk:
            return _kept[1]
    _kept = None  # before the next one is read, so that there is room for it
    dataset = _load(config, found)
    _kept = (key, dataset)
    return dataset


def _load(config: DataConfig, found: sources.Found) -> Dataset:
    source = found.read()
    train, val = _hold_out(config, source.train)
    test = source.test
    if isinstance(config, ImageFolderData):
        count = len(train) + len(val) + len(test)
        if not belongs_on_disk(config, count):
            require_memory(config, count * config.channels * config.image_size**2)
            train, val, test = (part.in_memory() for part in (train, val, test))
    findings = examine(train, val, test)
    return Dataset(train, val, test, source.classes, findings.fingerprint, findings.mean, findings.std)


def _hold_out(config: DataConfig, source: Split) -> tuple[Split, Split]:
    held_out = round(len(source) * config.val_fraction)
    if not 0 < held_out < len(source):
        raise UserError(
            f"data.val_fraction={config.val_fraction}: holds out {held_out} of {len(source)} training images; "
            "must leave at least one image for training and one for validation"
        )
    is_val = stratified(source.labels, held_out, generator(config.split_seed, "validation split"))
    train, val = source.take(~is_val), source.take(is_val)
    if config.train_size is not None:
        if config.train_size > len(train):
            raise UserError(
                f"data.train_size={config.train_size}: must be at most {len(train)}, the training images there are"
            )
        chosen = stratified(train.labels, config.train_size, generator(config.split_seed, "training subset"))
        train = train.take(chosen)
    return train, val


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
