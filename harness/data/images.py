"""Images in memory or in files, one part of a data set, and stratified choices of some of its images."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import re
import stat
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError, plural
from harness.files import at_once

# What torchvision's ImageFolder takes for images.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Names of other pictures, which ImageFolder leaves out as well, but nobody expects to be.
_OTHER_PICTURES = (".gif", ".avif", ".jp2", ".j2k", ".jfif", ".jpe", ".dib", ".pnm", ".apng", ".heic", ".heif", ".jxl")
# What such files hold, or what people name so: Pillow reads more, and has programs run for some of it.
_FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000")
_TIFF_TILE = (322, 323)  # the tags for a tile's width and height
# File systems count time in steps, the coarsest of 2 seconds: what is newer may change again unseen by its times.
_SETTLED_NS = 3_000_000_000
_UNSETTLED = (-1, -1, -1)
_IMAGES_A_TASK = 64
DIGEST_BYTES = 8
log = logging.getLogger(__name__)


class Images(Protocol):
    """Images by position, in memory or `in_files`; up to `threads` threads may read at once."""

    threads: int
    in_files: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(count, channels, height, width)."""

    @property
    def stamp(self) -> str | None:
        """SHA-256 of where their files lie, the files' sizes and times of change.

        None in memory, and for files so new that they could change unseen by their times.
        """

    @property
    def digests(self) -> np.ndarray | None:
        """By which a file's image is known again, (count, 8) uint8; None in memory, and until they are given."""

    def know_again(self, digests: np.ndarray) -> None:
        """Take the digests of these images: a file that changes must still hold its image; nothing to do in memory."""

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

    threads, in_files, stamp, digests = 1, False, None, None

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels.contiguous()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Images`."""
        count, height, width, channels = self.pixels.shape
        return count, channels, height, width

    def know_again(self, digests: np.ndarray) -> None:
        """As `Images`."""

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

    They decode to (size, size, channels) uint8, in up to `threads` threads; files of more than `max_pixels` are
    refused. Of a file that is another one than it was when it was found, the image must be the same: else the run would
    no longer be of the images that it is recorded to be of.
    """

    in_files = True

    def __init__(
        self, paths: Sequence[str], stamps: np.ndarray, size: int, channels: int, threads: int, max_pixels: int
    ) -> None:
        self.paths, self.stamps = paths, stamps
        self.digests: np.ndarray | None = None
        self._is_told = False
        self.size, self.channels, self.threads, self.max_pixels = size, channels, threads, max_pixels

    @staticmethod
    def find(
        paths: Sequence[str], size: int, channels: int, threads: int, max_pixels: int
    ) -> tuple[ImageFiles, np.ndarray]:
        """These files as they are now, and which they are: (count, 2) uint64, device and inode.

        Raises:
            UserError: naming a file that cannot be looked at, or is none.
        """
        stamps, identities = np.empty((len(paths), 3), np.int64), np.empty((len(paths), 2), np.uint64)
        settled = _settled()
        for position, path in enumerate(paths):
            try:
                status = os.stat(path)  # noqa: PTH116  (as below)
            except OSError as error:
                raise _unreadable(path, error.strerror) from None
            _check_regular(path, status)
            stamps[position] = _stamp(status, settled)
            identities[position] = status.st_dev, status.st_ino
        return ImageFiles(paths, stamps, size, channels, threads, max_pixels), identities

    def know_again(self, digests: np.ndarray) -> None:
        """As `Images`."""
        self.digests = digests

    @property
    def stamp(self) -> str | None:
        """As `Images`."""
        if (self.stamps == _UNSETTLED).any():
            return None
        digest = hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.stamps).data)
        return digest.hexdigest()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As `Images`."""
        return len(self.paths), self.channels, self.size, self.size

    def take(self, index: Tensor) -> ImageFiles:
        """As `Images`."""
        paths = [self.paths[position] for position in index.tolist()]
        chosen = index.numpy()
        taken = ImageFiles(paths, self.stamps[chosen], self.size, self.channels, self.threads, self.max_pixels)
        if self.digests is not None:
            taken.know_again(self.digests[chosen])
        return taken

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
        path, settled = self.paths[position], _settled()
        try:
            # A pipe that took a file's place since must not be waited for.
            with open(path, "rb", opener=at_once) as file:
                status = os.fstat(file.fileno())
                _check_regular(path, status)
                image = self._image(path, file)
        except UserError:
            raise
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise _unreadable(path, error) from None
        stamp = _stamp(status, settled)
        if stamp == _UNSETTLED or stamp != tuple(self.stamps[position].tolist()):
            self._look_again(position, image, stamp)
        return image

    def _image(self, path: str, file: BinaryIO) -> np.ndarray:
        pillow, ops = _pillow()
        # Pillow's own limit holds for what it makes room for as it opens a file. It is the whole process's: it is never
        # made stricter here.
        pillow.MAX_IMAGE_PIXELS = max(pillow.MAX_IMAGE_PIXELS or 0, self.max_pixels)
        try:
            image = pillow.open(file, formats=_readable())
            self._check_pixels(path, math.prod(image.size))
            if image.format == "TIFF":
                self._check_pixels(path, math.prod(image.tag_v2.get(tag, 1) for tag in _TIFF_TILE))
            ops.exif_transpose(image, in_place=True)
            mode = "RGB" if self.channels == 3 else "L"
            if image.mode.startswith(("I", "F")):
                image = _of_eight_bits(path, image)
            if image.mode != mode:
                image = image.convert(mode)
            image.load()
        except pillow.DecompressionBombError as error:
            count = re.search(r"\d+", str(error))
            self._refuse_pixels(path, count[0] if count else "more")
        except pillow.UnidentifiedImageError:
            raise _unreadable(path, f"it is none of {', '.join(_readable())}") from None
        if image.size != (self.size, self.size):
            image = ops.fit(image, (self.size, self.size), pillow.Resampling.BILINEAR)
        return np.array(image).reshape(self.size, self.size, self.channels)

    def _check_pixels(self, path: str, count: int) -> None:
        if count > self.max_pixels:
            self._refuse_pixels(path, str(count))

    def _refuse_pixels(self, path: str, count: str) -> NoReturn:
        raise UserError(
            f"data.max_pixels={self.max_pixels}: {path} has {count} pixels; must be as many at least, or the file be "
            "removed"
        )

    def _look_again(self, position: int, image: np.ndarray, stamp: tuple[int, int, int]) -> None:
        """Go on with a file that was written since it was found, if its image is known and still the same."""
        path = self.paths[position]
        if self.digests is not None and digest_of(image) != self.digests[position].tobytes():
            raise UserError(f"{path}: has changed since the data were looked through; start again")
        is_news = self.digests is not None and tuple(self.stamps[position].tolist()) != _UNSETTLED
        self.stamps[position] = stamp
        if is_news and not self._is_told:
            self._is_told = True  # a line for each of a million files would fill the log
            log.info(
                "%s was written since the data were looked through, perhaps others, too; its image is the same", path
            )


@cache
def _pillow() -> tuple[Any, Any]:
    """Pillow's modules, which take a while to import, without its warnings about files, and libtiff's on stderr."""
    from PIL import Image, ImageOps, _imaging

    Image.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with suppress(AttributeError, OSError):  # where it is linked otherwise it is just not quiet
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
    return Image, ImageOps


@cache
def _readable() -> tuple[str, ...]:
    """The formats that this Pillow reads."""
    return tuple(name for name in _FORMATS if name in _pillow()[0].OPEN)


def _of_eight_bits(path: str, image: Any) -> Any:
    """The upper 8 bits of grey of 16, as Pillow itself reads colours of 16 bits; grey it would cut off at 255."""
    # Files of these formats have 16 bits at most, which Pillow spreads over all of them.
    if not image.mode.startswith("I;16") and not (image.mode == "I" and image.format in ("PNG", "PPM")):
        raise _unreadable(path, f"of its pixels, of Pillow's mode {image.mode}, nothing says which are black and white")
    return _pillow()[0].fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def digest_of(image: np.ndarray) -> bytes:
    """By which an image (height, width, channels) uint8 is known again: 8 bytes."""
    return hashlib.blake2b(image.data, digest_size=DIGEST_BYTES).digest()


def digests_of(images: np.ndarray) -> np.ndarray:
    """Those of (count, height, width, channels), as (count, 8) uint8."""
    return np.frombuffer(b"".join(map(digest_of, images)), np.uint8).reshape(len(images), DIGEST_BYTES)


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is named as an image and is no file; remove or rename it")


def _settled() -> int:
    """What a file's times must be before to say that it has not changed, from now on."""
    return time.time_ns() - _SETTLED_NS


def _stamp(status: os.stat_result, settled: int) -> tuple[int, int, int]:
    """Also by the inode's time of change, which nobody sets: copying tools set the other to what it was."""
    is_settled = max(status.st_mtime_ns, status.st_ctime_ns) < settled
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if is_settled else _UNSETTLED


def _unreadable(path: str, reason: object) -> UserError:
    return UserError(f"{path}: cannot be read as an image ({reason}); remove or replace it")


def class_folders(folder: Path, seen: dict[tuple[int, int], str]) -> dict[str, list[str]]:
    """The image files under each folder of `folder`, in the order of torchvision's ImageFolder.

    Links are followed, and each real folder is read once. `seen` are the real folders, by device and inode, that were
    read before, to which those of each class are added.

    Raises:
        UserError: naming `folder` when it has no folders, the class folders without an image, and a folder that
            cannot be looked through, or belongs to two classes, or to one of train and of test.
    """
    try:
        return _class_folders(folder, seen)
    except OSError as error:
        place = error.filename or folder
        raise UserError(
            f"{place}: cannot be looked through ({error.strerror}); make it readable, or remove it"
        ) from None


def _class_folders(folder: Path, seen: dict[tuple[int, int], str]) -> dict[str, list[str]]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise UserError(f"{folder}: has no class folders; images must lie in {folder}/<class>/")
    if nameless := [name for name in names if _is_no_text(name)]:
        raise UserError(f"{folder}/{nameless[0]}: is a class named by bytes that are no UTF-8; rename it")
    images: dict[str, list[str]] = {}
    others: list[str] = []
    for name in names:
        own, files = {}, {}
        for key, place, inside in _real_folders(folder / name):
            own[key], files[place] = place, inside
        if twice := own.keys() & seen.keys():
            first = min(twice, key=own.__getitem__)
            raise UserError(
                f"{own[first]}: is the same folder as {seen[first]}; must be of one class, and of train or test alone"
            )
        seen |= own
        images[name] = [
            os.path.join(place, file)  # noqa: PTH118  (for each of many files)
            for place in sorted(files)
            for file in sorted(files[place])
            if file.lower().endswith(_SUFFIXES)
        ]
        others += [f"{place}/{file}" for place in files for file in files[place] if _is_other_picture(file)]
    if others:
        log.warning(
            "%s left out for the name's ending, as %s; read are %s",
            plural(len(others), "picture is", "pictures are"), min(others), ", ".join(_SUFFIXES),
        )  # fmt: skip
    empty = [name for name, paths in images.items() if not paths]
    if empty:
        raise UserError(f"{folder}: no images ({', '.join(_SUFFIXES)}) in the classes {', '.join(empty)}")
    return images


def _is_no_text(name: str) -> bool:
    """Whether a name stands for bytes that no text file or picture could show."""
    return any("\ud800" <= sign <= "\udfff" for sign in name)


def _is_other_picture(file: str) -> bool:
    return file.lower().endswith(_OTHER_PICTURES) and not file.startswith(".")


def _real_folders(top: Path) -> Iterator[tuple[tuple[int, int], str, list[str]]]:
    """The folder and those below it, each real one once: device and inode, path, and the names of what is no folder."""

    def fail(error: OSError) -> NoReturn:
        raise error  # else its images would be left out without a word

    seen = set()
    for place, folders, files in os.walk(top, followlinks=True, onerror=fail):
        folders.sort()
        status = os.stat(place)  # noqa: PTH116
        if (key := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(key)
        yield key, place, files


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
