"""Where images come from: scikit-learn, torchvision, folders of files, or arithmetic."""

from __future__ import annotations

import gzip
import logging
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import DataConfig, DigitsData, ImageFolderData, SyntheticData, TorchvisionData
from harness.data.images import ImageFiles, MemoryImages, Split, class_folders, stratified
from harness.data.storage import require_memory
from harness.errors import UserError, plural
from harness.machine import usable_cores
from harness.seeding import generator

log = logging.getLogger(__name__)

# Where Debian's package dataset-fashion-mnist puts the four files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# torchvision's names of the classes, here since importing torchvision takes longer than reading the files.
_IDX_CLASSES = {
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "mnist": (
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven", "8 - eight",
        "9 - nine",
    ),
}  # fmt: skip
_IDX_FOLDERS = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}


@dataclass(frozen=True)
class Source:
    """Training images, from which validation is yet to be held out, and test images."""

    train: Split
    test: Split
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """A source that is yet to be read; `stamp` tells by place, size and times which files it will be read from.

    It is None where files are so new that they could change unseen by their times.
    """

    stamp: tuple[object, ...] | None
    read: Callable[[], Source]


def find(config: DataConfig) -> Unread:
    """Look for the files of the configured data.

    Raises:
        UserError: naming the folder or file that is missing, empty or unreadable. Its `read` raises the same, and for
            files that can be neither found nor downloaded, in two lines, the folders searched and what to do.
    """
    if isinstance(config, DigitsData):
        return Unread((), _digits)
    if isinstance(config, SyntheticData):
        return Unread((), partial(_synthetic, config))
    if isinstance(config, ImageFolderData):
        source = _image_folder(config)
        stamps = (source.train.images.stamp, source.test.images.stamp)
        return Unread(None if None in stamps else (config.workers, *stamps), lambda: source)
    if config.name in _IDX_CLASSES:
        for folder in _idx_folders(config):
            if len(files := _idx_files(folder)) == len(_IDX_STEMS):
                return Unread(_stamp(files), partial(_idx_source, files, _IDX_CLASSES[config.name]))
        return Unread((), partial(_torchvision_set, config))
    # All that may be torchvision's: which of these files are this data set's is its own affair.
    root = Path(config.root)
    return Unread(_stamp([*root.glob("*/*"), *root.glob("*/raw/*")]), partial(_torchvision_set, config))


def _stamp(files: Iterable[Path]) -> tuple[object, ...]:
    status = ((str(file.absolute()), file.stat()) for file in files)
    return tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in status))


def _digits() -> Source:
    """The UCI digits: 1,797 images of 8x8, a fixed stratified fifth of them for test."""
    table = _digits_table()
    # Pixels are whole numbers from 0 to 16.
    images = torch.from_numpy((table[:, :64] * 15.9375).astype(np.uint8)).view(-1, 8, 8, 1)
    everything = Split(MemoryImages(images), torch.from_numpy(table[:, 64]).long())
    is_test = stratified(everything.labels, round(len(everything) / 5), generator(0, "digits test split"))
    return Source(everything.take(~is_test), everything.take(is_test), tuple(map(str, range(10))))


def _digits_table() -> np.ndarray:
    """(1797, 65) float64: pixels and class of each image.

    Read from scikit-learn's file itself, since importing scikit-learn takes longer than training on it.
    """
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        try:
            table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        except (OSError, ValueError):
            break
        if table.shape == (1797, 65):
            return table
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _torchvision_set(config: TorchvisionData) -> Source:
    """A torchvision data set from files that are there, else downloaded into `config.root`."""
    from torchvision import datasets

    # Ours are named as torchvision's classes but for capitals and underscores.
    wanted = config.name.replace("_", "")
    cls = next(getattr(datasets, name) for name in datasets.__all__ if name.lower() == wanted)
    candidates = _idx_folders(config) if config.name in _IDX_CLASSES else [Path(config.root)]
    try:
        parts = [cls(config.root, train=train, download=False) for train in (True, False)]
    except RuntimeError:
        parts = _download(config, cls, candidates)
    except Exception as error:  # unpickling damaged files raises nearly anything
        raise UserError(f"data.root={config.root}: the files of {config.name} are damaged ({error})") from None
    train, test = (Split(_images(part.data), torch.as_tensor(part.targets)) for part in parts)
    return Source(train, test, tuple(parts[0].classes))


def _idx_folders(config: TorchvisionData) -> list[Path]:
    root = Path(config.root)
    debian = [DEBIAN_FASHION_MNIST] if config.name == "fashion_mnist" else []
    return [root / _IDX_FOLDERS[config.name] / "raw", root, *debian]


def _download(config: TorchvisionData, cls: type, candidates: list[Path]) -> list[torch.utils.data.Dataset[object]]:
    searched = ", ".join(str(folder.absolute()) for folder in candidates)
    reason = "data.download=false"
    if config.download:
        try:
            Path(config.root).mkdir(parents=True, exist_ok=True)
            return [cls(config.root, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError) as error:
            reason = f"the download failed: {str(error).splitlines()[0]}"
    debian = " (Fashion-MNIST: apt-get install dataset-fashion-mnist)" if config.name == "fashion_mnist" else ""
    raise UserError(
        f"data={config.name}: not found in {searched}; {reason}\n"
        f"Put the files into one of these folders, name another with data.root=FOLDER{debian}, or use data=digits."
    )


def _images(array: Tensor | np.ndarray) -> MemoryImages:
    """From (count, height, width[, channels])."""
    images = torch.as_tensor(array)
    return MemoryImages(images.unsqueeze(-1) if images.ndim == 3 else images)


_IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_files(folder: Path) -> list[Path]:
    """Those of the four files that are there, plain or else gzipped."""
    choices = ((folder / stem, folder / f"{stem}.gz") for stem in _IDX_STEMS)
    return [path for pair in choices if (path := next(filter(Path.is_file, pair), None)) is not None]


def _idx_source(files: Sequence[Path], classes: tuple[str, ...]) -> Source:
    arrays = []
    for path in files:
        try:
            arrays.append(read_idx(path))
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            raise UserError(f"{path}: damaged, or no IDX file ({error}); fetch it again") from None
    parts = []
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or int(labels.max()) >= len(classes):
            raise UserError(f"{files[0].parent}: images and labels do not belong together; fetch the files again")
        parts.append(Split(_images(images), torch.from_numpy(labels).long()))
    return Source(parts[0], parts[1], classes)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file, plain or gzipped (Y. LeCun's format of MNIST).

    Raises:
        ValueError: when the header is not that of unsigned bytes or the length is not what it says.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or kind != 8:
        raise ValueError("the header is not that of unsigned bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return values.reshape(shape).copy()


def _image_folder(config: ImageFolderData) -> Source:
    """Every image of `root/train/<class>` and `root/test/<class>`, undecoded."""
    parts = []
    seen: dict[tuple[int, int], str] = {}
    for name in ("train", "test"):
        folder = (Path(config.root) / name).absolute()
        if not folder.is_dir():
            raise UserError(
                f"data.root={config.root}: there is no folder {folder}\n"
                "Put images into train/<class>/ and test/<class>/ under data.root."
            )
        parts.append(class_folders(folder, seen))
    if odd := sorted(parts[0].keys() ^ parts[1].keys()):
        raise UserError(f"data.root={config.root}: train and test must have the same classes; only in one: {odd}")
    classes = tuple(parts[0])
    if len(classes) < 2:
        raise UserError(f"data.root={config.root}: must have two or more classes, has {list(classes)}")
    splits: list[Split] = []
    identities: list[np.ndarray] = []
    all_paths: list[str] = []
    for part in parts:
        paths = [path for members in part.values() for path in members]
        labels = torch.arange(len(part)).repeat_interleave(torch.tensor([len(members) for members in part.values()]))
        threads = config.workers or usable_cores()
        files, known = ImageFiles.find(paths, config.image_size, config.channels, threads, config.max_pixels)
        splits.append(Split(files, labels))
        identities.append(known)
        all_paths += paths
    _warn_of_links(all_paths, np.concatenate(identities))
    for name in ("val", "valid", "validation"):
        if (folder := Path(config.root) / name).is_dir():
            log.warning("%s is not read: validation images are held out of train/ (data.val_fraction)", folder)
    return Source(splits[0], splits[1], classes)


def _warn_of_links(paths: Sequence[str], identities: np.ndarray) -> None:
    """Say so where a file has several names: people do repeat images by links, and also mix up train and test."""
    order = np.lexsort((identities[:, 1], identities[:, 0]))
    ordered = identities[order]
    again = (ordered[1:] == ordered[:-1]).all(1) & (ordered[1:, 1] != 0)  # 0: a file system that does not number files
    if count := int(again.sum()):
        first = int(again.argmax())
        one, other = sorted(paths[place] for place in order[first : first + 2])
        log.warning(
            "%s counted again under other names, as %s and %s; what lies in two parts makes accuracy look better",
            plural(count, "file is", "files are"), one, other,
        )  # fmt: skip


def _synthetic(config: SyntheticData) -> Source:
    """One random pattern a class, seen through noise: learnable, of any size, the same on every machine."""
    assert config.split_seed is not None
    rng = generator(config.split_seed, "synthetic images")
    shape = (config.channels, config.image_size, config.image_size)
    counts = (config.images, max(config.images // 5, config.classes))
    # A pattern's numbers have eight bytes each, and so has a label.
    require_memory(config, (sum(counts) + 8 * config.classes) * math.prod(shape) + 8 * sum(counts))
    patterns = torch.randint(0, 256, (config.classes, *shape), generator=rng)
    parts = []
    for count in counts:
        labels = torch.arange(count) % config.classes
        images = torch.empty(count, *shape, dtype=torch.uint8)
        for chosen in torch.arange(count).split(1024):
            noise = torch.randint(0, 256, (len(chosen), *shape), generator=rng)
            images[chosen] = ((patterns[labels[chosen]] + 3 * noise) // 4).to(torch.uint8)
        parts.append(Split(MemoryImages(images.permute(0, 2, 3, 1)), labels))
    return Source(parts[0], parts[1], tuple(map(str, range(config.classes))))
