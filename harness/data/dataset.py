"""Data sets, read and split into train, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.config import DataConfig, ImageFolderData, Role
from harness.data import sources
from harness.data.fingerprint import examine
from harness.data.images import Split, stratified
from harness.data.storage import belongs_on_disk, require_memory
from harness.errors import UserError
from harness.seeding import generator


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
    def facts(self) -> dict[str, Any]:
        """What of the data decides the bits of a run."""
        return {"fingerprint": self.fingerprint, "normalisation": [*self.mean, *self.std]}

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
    unread = sources.find(config)
    key = (unread.stamp, config.plain(Role.NO_BITS))
    if _kept is not None and _kept[0] == key and unread.stamp is not None:
        on_disk = _kept[1].train.images.in_files
        if config.storage == "auto" or (config.storage == "disk") == on_disk:
            return _kept[1]
    _kept = None  # before the next one is read, so that there is room for it
    dataset = _load(config, unread.read())
    _kept = (key, dataset)
    return dataset


def _load(config: DataConfig, source: sources.Source) -> Dataset:
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
    assert config.split_seed is not None
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
