"""What is computed from all images of a data set before training: its fingerprint and its normalisation."""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import math
import os
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from harness.data.feeds import Readable, read_ahead
from harness.data.images import DIGEST_BYTES, Images, Split, digests_of
from harness.errors import UserError
from harness.files import code_digest, read_sealed, write_sealed

# Up to 257 squares of a byte add up in float32 without rounding, in whatever order they are added.
_CHUNK_IMAGES = 256
_CHUNK_BYTES = 16_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Findings:
    """The SHA-256 over all parts; mean and standard deviation of training pixels (0 to 255) by channel."""

    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def examine(train: Split, val: Split, test: Split) -> Findings:
    """Go through all images once. The findings are the same wherever the images lie.

    For images that stay in their files this means to decode all of them, so what was found is remembered for the next
    process, under `$XDG_CACHE_HOME` (`~/.cache`); each image can be known again from then on.

    Raises:
        UserError: naming a file that is gone or damaged.
    """
    parts = (train, val, test)
    memory = _memory_of(*parts)
    if memory is not None and (findings := _recall(memory, parts)) is not None:
        return findings
    digest, sums = hashlib.sha256(), _PixelSums(*train.images.shape[1:])
    for part in parts:
        digest.update(repr((len(part), *part.images.shape[1:])).encode())
        source = _Digested(part.images) if part.images.in_files else part.images
        with closing(_chunks(source)) as chunks:
            for chunk in chunks:
                digest.update(chunk.numpy().data)
                if part is train:
                    sums.add(chunk)
        digest.update(part.labels.contiguous().numpy().data)
        if isinstance(source, _Digested):
            part.images.know_again(source.digests)
    findings = Findings(digest.hexdigest(), *sums.mean_and_std())
    # Named anew: a file may have been written between its being found and its being read.
    if (memory := _memory_of(*parts)) is not None:
        _remember(memory, findings, parts)
    return findings


class _Digested:
    """Images that are digested by the threads that read them: here they would wait for those, and those for them."""

    def __init__(self, images: Images) -> None:
        self._images, self.shape, self.threads = images, images.shape, images.threads
        self.digests = np.empty((images.shape[0], DIGEST_BYTES), np.uint8)

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """As `Images`."""
        self._images.read(index, out)
        self.digests[index] = digests_of(out)


def _chunks(images: Readable) -> Generator[Tensor]:
    count, channels, height, width = images.shape
    size = min(_CHUNK_IMAGES, max(1, _CHUNK_BYTES // (channels * height * width)))
    with closing(read_ahead(images, torch.arange(count).split(size), size, pinned=False)) as buffers:
        for buffer in buffers:
            yield buffer.images


class _PixelSums:
    """Exact sums of pixels and of their squares, for each place of an image."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._pixels = 0
        self._sum, self._squares = torch.zeros((2, height, width, channels), dtype=torch.int64)

    def add(self, images: Tensor) -> None:
        """Count in (at most 256, height, width, channels) uint8."""
        floats = images.float()
        self._pixels += images[..., 0].numel()
        self._sum += floats.sum(0).long()
        self._squares += floats.square_().sum(0).long()

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """By channel, in whole numbers up to one division, so that they do not depend on any order of summing."""
        count = self._pixels
        sums, squares = (total.sum((0, 1)).tolist() for total in (self._sum, self._squares))
        mean = tuple(s / count for s in sums)
        # Images that are all of one colour would be divided by zero.
        std = tuple(max(1e-3, math.sqrt((count * q - s * s) / count**2)) for s, q in zip(sums, squares, strict=True))
        return mean, std


def _memory_of(*parts: Split) -> Path | None:
    """The file for what is found in these image files, named by all that it follows from.

    None for images that are in memory, and for files so new that they could change unseen by their times.
    """
    stamps = [part.images.stamp for part in parts]
    if None in stamps:
        return None
    from PIL import __version__, features

    key = hashlib.sha256(repr((code_digest("data"), __version__, features.version("libjpeg_turbo"))).encode())
    for part, stamp in zip(parts, stamps, strict=True):
        key.update(repr((stamp, part.images.shape)).encode())
        key.update(part.labels.contiguous().numpy().data)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lr-schedule-lab" / f"images-{key.hexdigest()}.json"


def _remember(memory: Path, findings: Findings, parts: Sequence[Split]) -> None:
    digests = b"".join(part.images.digests.tobytes() for part in parts if part.images.digests is not None)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(memory, {**asdict(findings), "digests": base64.b64encode(digests).decode()})
    except (OSError, UserError) as error:
        log.info("what was found in the images is not remembered: %s", error)


def _recall(memory: Path, parts: Sequence[Split]) -> Findings | None:
    """What was remembered; None where the file holds anything else than what could have been found in these parts."""
    content = read_sealed(memory) or {}
    fingerprint, mean, std, digests = (content.get(name) for name in ("fingerprint", "mean", "std", "digests"))
    channels, count = parts[0].images.shape[1], sum(map(len, parts))
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        return None
    if not (_are_numbers(mean, channels) and _are_numbers(std, channels) and min(std) > 0):
        return None
    if not isinstance(digests, str) or len(known := _decoded(digests)) != count * DIGEST_BYTES:
        return None
    _give_digests(parts, np.frombuffer(known, np.uint8).reshape(count, DIGEST_BYTES))
    return Findings(fingerprint, tuple(mean), tuple(std))


def _are_numbers(values: Any, count: int) -> TypeGuard[list[float]]:
    is_list = isinstance(values, list) and len(values) == count
    return is_list and all(isinstance(value, float) and math.isfinite(value) for value in values)


def _decoded(text: str) -> bytes:
    """The bytes of base64; none where it is not that."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _give_digests(parts: Sequence[Split], known: np.ndarray) -> None:
    ends = itertools.accumulate(map(len, parts))
    for part, end in zip(parts, ends, strict=True):
        part.images.know_again(known[end - len(part) : end])
