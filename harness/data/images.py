"""Images in memory or in files, one part of a data set, and stratified choices of some of its images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError

# What torchvision's ImageFolder takes for images.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_IMAGES_A_TASK = 64


class Images(Protocol):
    """Images by position, wherever they lie; up to `threads` threads may read at once."""

    threads: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(count, channels, height, width)."""

    @property
    def stamp(self) -> str | None:
        """SHA-256 of where their files lie, the files' sizes and times of change; None in memory."""

    @property
    def newest(self) -> int:
        """When the file that was changed last was changed, in nanoseconds since 1970; 0 in memory."""

    def take(self, index: Tensor) -> Images:
        """The images at these positions (int64)."""

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """Write the images at these positions into `out` (len(index), height, width, channels) uint8.

        Raises:
            UserError: naming a file that is gone, changed or damaged.
        """

    def decoded(self) -> MemoryImages:
        """All images, in memory; raises as `read`."""


class MemoryImages:
    """Images in this machine's memory, `pixels` (count, height, width, channels) uint8.

    They are contiguous, so that a row of an image is one piece whatever its channels.
    """

    threads, stamp, newest = 1, None, 0

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels.contiguous()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Images`."""
        count, height, width, channels = self.pixels.shape
        return count, channels, height, width

    def take(self, index: Tensor) -> MemoryImages:
        """As `Images`; whole images are copied, which is faster than indexing, which goes pixel by pixel."""
        return MemoryImages(self.pixels.index_select(0, index))

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """As `Images`."""
        # numpy, since torch would start a team of threads for every thread that calls it; "clip" spares a copy.
        np.take(self.pixels.numpy(), index, axis=0, out=out, mode="clip")

    def decoded(self) -> MemoryImages:
        """As `Images`."""
        return self


class ImageFiles:
    """Images as files, cut square and scaled to `size` pixels, with 1 or 3 `channels`.

    They decode to (size, size, channels) uint8, in up to `threads` threads. A file that is another one than it was
    when it was found is refused: the run would no longer be of the images that it is recorded to be of.
    """

    def __init__(self, paths: Sequence[str], stamps: np.ndarray, size: int, channels: int, threads: int) -> None:
        self.paths, self.stamps = paths, stamps
        self.size, self.channels, self.threads = size, channels, threads

    @staticmethod
    def find(paths: Sequence[str], size: int, channels: int, threads: int) -> ImageFiles:
        """These files as they are now.

        Raises:
            UserError: naming a file that cannot be looked at.
        """
        stamps = np.empty((len(paths), 2), np.int64)
        for position, path in enumerate(paths):
            try:
                stamps[position] = _stamp(os.stat(path))  # noqa: PTH116  (as below)
            except OSError as error:
                raise _unreadable(path, error) from None
        return ImageFiles(paths, stamps, size, channels, threads)

    @property
    def stamp(self) -> str:
        """As `Images`."""
        digest = hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.stamps).data)
        return digest.hexdigest()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Images`."""
        return len(self.paths), self.channels, self.size, self.size

    @property
    def newest(self) -> int:
        """As `Images`."""
        return int(self.stamps[:, 1].max())

    def take(self, index: Tensor) -> ImageFiles:
        """As `Images`."""
        paths = [self.paths[position] for position in index.tolist()]
        return ImageFiles(paths, self.stamps[index.numpy()], self.size, self.channels, self.threads)

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """As `Images`; they are decoded."""
        for place, position in enumerate(index.tolist()):
            out[place] = self._decode(position)

    def decoded(self) -> MemoryImages:
        """As `Images`."""
        images = np.empty((len(self.paths), self.size, self.size, self.channels), np.uint8)
        everything = np.arange(len(self.paths))
        pool = ThreadPoolExecutor(self.threads, "decode")
        try:
            parts = [slice(start, start + _IMAGES_A_TASK) for start in range(0, len(self.paths), _IMAGES_A_TASK)]
            for task in [pool.submit(self.read, everything[part], images[part]) for part in parts]:
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)
        return MemoryImages(torch.from_numpy(images))

    def _decode(self, position: int) -> np.ndarray:
        from PIL import Image, ImageOps

        path, mode = self.paths[position], "RGB" if self.channels == 3 else "L"
        try:
            with open(path, "rb") as file:  # noqa: PTH123  (Path.open takes longer)
                if _stamp(os.fstat(file.fileno())) != tuple(self.stamps[position].tolist()):
                    raise UserError(f"{path}: has changed since the data were looked through; start again")
                image: Image.Image = Image.open(file)
                ImageOps.exif_transpose(image, in_place=True)
                if image.mode != mode:
                    image = image.convert(mode)
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from None
        if image.size != (self.size, self.size):
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BILINEAR)
        return np.array(image).reshape(self.size, self.size, self.channels)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _unreadable(path: str, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read as an image ({error}); remove or replace it")


def class_folders(folder: Path) -> dict[str, list[str]]:
    """The image files under each folder of `folder`, in the order of torchvision's ImageFolder.

    Raises:
        UserError: naming `folder` when it has no folders, or the class folders without an image.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise UserError(f"{folder}: has no class folders; images must lie in {folder}/<class>/")
    images: dict[str, list[str]] = {}
    for name in names:
        walk = sorted(os.walk(folder / name, followlinks=True))
        images[name] = [
            os.path.join(place, file)  # noqa: PTH118  (for each of many files)
            for place, _, files in walk
            for file in sorted(files)
            if file.lower().endswith(_SUFFIXES)
        ]
    empty = [name for name, paths in images.items() if not paths]
    if empty:
        raise UserError(f"{folder}: no images ({', '.join(_SUFFIXES)}) in the classes {', '.join(empty)}")
    return images


@dataclass(frozen=True)
class Split:
    """Images, and labels (count,) int64, of one part of a data set, on the CPU."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """The images at these positions: a boolean mask (count,), or int64."""
        index = index.nonzero().flatten() if index.dtype == torch.bool else index
        return Split(self.images.take(index), self.labels[index])

    def in_memory(self) -> Split:
        """The same part with its images in memory; raises as `Images.read`."""
        return Split(self.images.decoded(), self.labels)


def stratified(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """A boolean mask (n,) that picks `count` of n images, each class in proportion (largest remainder method).

    Written out here, not taken from a library, so that no new version of one ever changes a split.
    """
    exact = torch.bincount(labels).double() * count / len(labels)
    quota = exact.floor().long()
    left = count - int(quota.sum())
    quota[torch.argsort(quota - exact, stable=True)[:left]] += 1
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label, wanted in enumerate(quota.tolist()):
        members = torch.nonzero(labels == label).flatten()
        mask[members[torch.randperm(len(members), generator=rng)[:wanted]]] = True
    return mask
