"""Damaged and odd images in a folder of sound ones, read from memory and from their files."""

import contextlib
import io
import logging
import os
import random
import re
import resource
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from support.small_runs import compose_once

from harness.config import ImageFolderData
from harness.data import dataset as datasets
from harness.data.dataset import Dataset, load_dataset
from harness.errors import printable, run_script
from harness.views.console import DatedFormatter

from .campaign import Campaign

_MAX_PIXELS = 1_000_000
_KINDS = (
    ("JPEG", ".jpg", ("L", "RGB", "CMYK")),
    ("PNG", ".png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("BMP", ".bmp", ("1", "L", "P", "RGB")),
    ("TIFF", ".tif", ("1", "L", "P", "RGB", "RGBA", "CMYK", "F", "I;16")),
    ("WEBP", ".webp", ("RGB", "RGBA")),
    ("PPM", ".ppm", ("1", "L", "RGB")),
)


def _prepare(shared: Path) -> None:
    rng = random.Random(0)
    for part, count in (("train", 4), ("test", 1)):
        for label in ("a", "b"):
            (folder := shared / part / label).mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(_picture(rng, "PNG", "RGB"))


def _attempt(rng: random.Random, shared: Path, folder: Path) -> str:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.umask(0)
    shutil.copytree(shared, "images")
    name = os.fsencode(rng.choice(["x", "x y", "x\n\x1b[31m", "ä", "-x", "x" * 200])) + rng.choice([b"", b"", b"\xff"])
    format_, suffix, modes = rng.choice(_KINDS)
    path = Path(os.fsdecode(b"images/train/a/" + name + os.fsencode(rng.choice([suffix, suffix, ".JPG"]))))
    how = rng.choice(list(_WAYS))
    _WAYS[how](rng, path, _picture(rng, format_, rng.choice(modes)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = [_read(storage, path) for storage in ("host", "disk", "disk")]
    assert not warned, f"{how}: {warned[0].message}"
    assert found[0] == found[1] == found[2], f"{how}: {found}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    assert grown < 200, f"{how}: took {grown:.0f} MB for an image of at most {_MAX_PIXELS} pixels"
    return f"{how}: {'refused' if isinstance(found[0], str) else 'read'}"


def _read(storage: str, path: Path) -> str | tuple[str, bytes]:
    """The fingerprint and the pixels of validation, or what standard error was told against the folder."""
    overrides = ("data=image_folder", "data.root=images", "data.image_size=8", "data.val_fraction=0.3")
    config = compose_once(*overrides, f"data.max_pixels={_MAX_PIXELS}", f"data.storage={storage}")[0].data
    assert isinstance(config, ImageFolderData)
    datasets._kept = None
    parts: list[Dataset] = []
    told = _told(lambda: parts.append(load_dataset(config)))
    if parts:
        assert not told or (path.is_symlink() and b"is counted again" in told), f"read, and told {told!r}"
        return parts[0].fingerprint, parts[0].val.images.decoded().pixels.numpy().tobytes()
    text = told.decode()
    controls = {sign for sign in text if sign < " " and sign != "\n"}
    assert re.fullmatch(r"error: .*\n", text, re.DOTALL), f"not one message: {text!r}"
    assert not controls, f"reaches the terminal as it is: {controls} in {text!r}"
    assert printable(path.name) in text, f"does not name the file: {text!r}"
    return text


def _told(script: Callable[[], None]) -> bytes:
    """What running a script writes to standard error, libraries' own writing included."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with open(2, "w", encoding="utf-8", closefd=False) as stream, contextlib.redirect_stderr(stream):
                handler = logging.StreamHandler(stream)
                handler.setFormatter(DatedFormatter("%(message)s"))
                logging.root.handlers[:] = [handler]
                run_script(script)
        except SystemExit:
            pass
        finally:
            logging.root.handlers.clear()
            os.dup2(own, 2)
            os.close(own)
        file.seek(0)
        return file.read()


def _picture(rng: random.Random, format_: str, mode: str) -> bytes:
    size = (rng.randint(1, 60), rng.randint(1, 60))
    pixels = np.frombuffer(rng.randbytes(3 * size[0] * size[1]), np.uint8).reshape(size[1], size[0], 3)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert("L" if mode == "LA" else "RGB").convert(mode)
    content = io.BytesIO()
    image.save(content, format_)
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _bits(rng: random.Random, path: Path, content: bytes) -> None:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 10)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    _write(path, bytes(changed))


def _header(rng: random.Random, path: Path, content: bytes) -> None:
    start = rng.randrange(min(64, len(content)))
    _write(path, content[:start] + rng.randbytes(4) + content[start + 4 :])


def _splice(rng: random.Random, path: Path, content: bytes) -> None:
    first, second = sorted(rng.randrange(len(content)) for _ in range(2))
    _write(path, content[:second] + content[first:])


def _bomb(rng: random.Random, path: Path, content: bytes) -> None:
    """A PNG whose header claims more pixels than any memory holds."""
    width, height = (rng.choice([20_000, 60_000, 2**31 - 1]) for _ in range(2))
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    )
    _write(path, b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _tile(rng: random.Random, path: Path, content: bytes) -> None:
    """A TIFF of 20 x 20 pixels, in a tile of 1.6 GB."""
    data = zlib.compress(bytes(16_000_000))
    tags = ((256, 20), (257, 20), (258, 8), (259, 8), (262, 1), (277, 1), (322, 40_000), (323, 40_000))
    tags += ((324, 10 + 12 * 10 + 4), (325, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    _write(path, b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data)


def _linked(rng: random.Random, path: Path, content: bytes) -> None:
    target = rng.choice([path.name, "nowhere", ".", "..", "../../test/a/0.png", "/dev/zero", "/dev/null"])
    path.symlink_to(target)


def _unreadable(rng: random.Random, path: Path, content: bytes) -> None:
    _write(path, content)
    path.chmod(0)


_WAYS = {
    "sound": lambda rng, path, content: _write(path, content),
    "bits": _bits,
    "cut": lambda rng, path, content: _write(path, content[: rng.randrange(len(content))]),
    "header": _header,
    "spliced": _splice,
    "noise": lambda rng, path, content: _write(path, rng.randbytes(rng.randrange(2000))),
    "bomb": _bomb,
    "tile": _tile,
    "pipe": lambda rng, path, content: os.mkfifo(path),
    "folder": lambda rng, path, content: path.mkdir(),
    "link": _linked,
    "unreadable": _unreadable,
}

CAMPAIGN = Campaign(
    what="damaged and odd images; the same pixels from memory and from files, or one message that names the file",
    cases=5000,
    few=10,
    prepare=_prepare,
    attempt=_attempt,
    seconds=30,
)
