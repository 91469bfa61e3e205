"""Data sets as uint8 tensors, split into train, validation and test, and the batches of an epoch.

Images are (count, channels, height, width) uint8, labels (count,) int64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import sources
from harness.augment import EpochAugmentation, windows
from harness.config import DataConfig, DigitsData, ImageFolderData, TorchvisionData
from harness.errors import UserError
from harness.seeding import generator
from harness.splits import Split, stratified


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts and the names of the classes; `fingerprint` is the SHA-256 of all three parts."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load_dataset(config: DataConfig) -> Dataset:
    """Read the configured data and hold validation images out of its training images.

    Raises:
        UserError: naming the folder searched, or the setting, for data that is missing, damaged or too small.
    """
    if isinstance(config, DigitsData):
        source = sources.digits()
    elif isinstance(config, TorchvisionData):
        source = sources.torchvision_set(config)
    elif isinstance(config, ImageFolderData):
        source = sources.image_folder(config)
    else:
        source = sources.synthetic(config)
    train, val = _hold_out(config, source.train)
    fingerprint = hashlib.sha256()
    for part in (train, val, source.test):
        for tensor in (part.images, part.labels):
            fingerprint.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            fingerprint.update(tensor.contiguous().numpy().data)
    return Dataset(train, val, source.test, source.classes, fingerprint.hexdigest())


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
    """A data set's parts on the device, and the normalised batches of an epoch.

    The whole part lies there as uint8; shuffling, cropping and flipping are index arithmetic on whole batches. The
    choices of an epoch follow from (seed, epoch) and are drawn on the CPU, so every device sees the same batches.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, batch_size: int, seed: int, device: torch.device) -> None:
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.flip, self.padding = config.flip, config.crop_padding
        pixels = dataset.train.images.transpose(0, 1).flatten(1)
        mean = torch.stack([channel.double().mean() for channel in pixels])
        std = torch.stack([channel.double().std(correction=0) for channel in pixels]).clamp(min=1e-3)
        self._scale = (1 / std).float().view(-1, 1, 1).to(device)
        self._shift = (-mean / std).float().view(-1, 1, 1).to(device)
        self._windows = windows(dataset.train.images.to(device), self.padding)
        self._labels = dataset.train.labels.to(device)
        self._rest = {
            name: Split(part.images.to(device), part.labels.to(device))
            for name, part in (("val", dataset.val), ("test", dataset.test))
        }

    def train(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images float32 in channels-last order, labels) of every training image once, in random order."""
        rng = generator(self.seed, "batches", epoch)
        count = len(self._labels)
        order = torch.randperm(count, generator=rng)
        augmentation = EpochAugmentation.draw(count, self.padding, self.flip, rng).to(self.device)
        order = order.to(self.device)
        for start in range(0, count, self.batch_size):
            chosen = slice(start, start + self.batch_size)
            index = order[chosen]
            yield self._normalised(augmentation.apply(self._windows, index, chosen)), self._labels[index]

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the part `val` or `test` in its own order, not augmented."""
        split = self._rest[part]
        for images, labels in zip(
            split.images.split(self.batch_size), split.labels.split(self.batch_size), strict=True
        ):
            yield self._normalised(images), labels

    def _normalised(self, images: Tensor) -> Tensor:
        floats = images.to(dtype=torch.float32, memory_format=torch.channels_last)
        return floats.mul_(self._scale).add_(self._shift)
