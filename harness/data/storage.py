"""Where the images lie while a run trains on them.

`device`: all of them on the device. `host`: in this machine's memory. `disk`: in their files.
"""

from __future__ import annotations

import logging

import torch

from harness.config import DataConfig, ImageFolderData, SyntheticData
from harness.errors import UserError, in_words
from harness.machine import free_device_memory, free_memory

log = logging.getLogger(__name__)


def belongs_on_disk(config: ImageFolderData, images: int) -> bool:
    """Whether that many images stay in their files; where `auto` decides so, it is logged why."""
    if config.storage != "auto":
        return config.storage == "disk"
    needed, free = images * config.channels * config.image_size**2, free_memory()
    if needed <= free / 2:
        return False
    log.info(
        "data.storage=auto: disk, since %s of decoded images are more than half of the %s of free memory",
        in_words(needed), in_words(free),
    )  # fmt: skip
    return True


def require_memory(config: DataConfig, needed: int) -> None:
    """Refuse images that must lie in memory and do not fit.

    Raises:
        UserError: with the size of the images and of the free memory, in bytes.
    """
    if needed > (free := free_memory()):
        at_most = " or be read from files (data.storage=disk)" if isinstance(config, ImageFolderData) else ""
        if isinstance(config, SyntheticData):
            at_most = " (data.images, data.classes, data.channels, data.image_size)"
        raise UserError(
            f"data={config.name}: {in_words(needed)} of images are more than the {in_words(free)} of free memory; "
            f"must be fewer or smaller{at_most}"
        )


def belongs_on_device(config: DataConfig, needed: int, device: torch.device) -> bool:
    """Whether images of `needed` bytes are put on the device; where `auto` decides against it, it is logged why."""
    if config.storage != "auto" or device.type != "cuda":
        return config.storage in ("auto", "device")
    free = free_device_memory(device)
    if needed <= free / 2:
        return True
    log.info(
        "data.storage=auto: host, since %s of images are more than half of the %s of free memory of %s",
        in_words(needed), in_words(free), device,
    )  # fmt: skip
    return False
