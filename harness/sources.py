"""Where images come from: scikit-learn, torchvision, folders of files, or arithmetic."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import ImageFolderData, SyntheticData, TorchvisionData
from harness.errors import UserError
from harness.seeding import generator
from harness.splits import Split, stratified

# Where Debian's package dataset-fashion-mnist puts the four files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_TORCHVISION_CLASS = {
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


@dataclass(frozen=True)
class Source:
    """Training images, from which validation is yet to be held out, and test images."""

    train: Split
    test: Split
    classes: tuple[str, ...]


def digits() -> Source:
    """The UCI digits: 1,797 images of 8x8, a fixed stratified fifth of them for test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Pixels are whole numbers from 0 to 16.
    images = torch.from_numpy((bunch.images * 15.9375).astype(np.uint8)).unsqueeze(1)
    everything = Split(images, torch.from_numpy(bunch.target).long())
    is_test = stratified(everything.labels, round(len(everything) / 5), generator(0, "digits test split"))
    return Source(everything.take(~is_test), everything.take(is_test), tuple(map(str, range(10))))


def torchvision_set(config: TorchvisionData) -> Source:
    """A torchvision data set from files that are there, else downloaded into `config.root`.

    Raises:
        UserError: in two lines, the folders searched and what to do, when it can be neither found nor downloaded.
    """
    from torchvision import datasets

    cls = getattr(datasets, _TORCHVISION_CLASS[config.name])
    root = Path(config.root)
    if config.name.endswith("mnist"):
        candidates = [root / cls.__name__ / "raw", root]
        if config.name == "fashion_mnist":
            candidates.append(DEBIAN_FASHION_MNIST)
        for folder in candidates:
            if all(_idx_file(folder, stem) for stem in _IDX_STEMS):
                return _idx_source(folder, tuple(cls.classes))
    else:
        candidates = [root]
    try:
        parts = [cls(str(root), train=train, download=False) for train in (True, False)]
    except RuntimeError:
        parts = _download(config, cls, candidates)
    except Exception as error:  # unpickling damaged files raises nearly anything
        raise UserError(f"data.root={config.root}: the files of {config.name} are damaged ({error})") from None
    train, test = (Split(_images(part.data), torch.as_tensor(part.targets)) for part in parts)
    return Source(train, test, tuple(parts[0].classes))


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


def _images(array: Tensor | np.ndarray) -> Tensor:
    """(count, height, width[, channels]) to (count, channels, height, width)."""
    images = torch.as_tensor(array)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


_IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _idx_source(folder: Path, classes: tuple[str, ...]) -> Source:
    arrays = []
    for stem in _IDX_STEMS:
        path = _idx_file(folder, stem)
        assert path is not None
        try:
            arrays.append(read_idx(path))
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            raise UserError(f"{path}: damaged, or no IDX file ({error}); fetch it again") from None
    parts = []
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or int(labels.max()) >= len(classes):
            raise UserError(f"{folder}: images and labels do not belong together; fetch the files again")
        parts.append(Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()))
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


def image_folder(config: ImageFolderData) -> Source:
    """Every image of `root/train/<class>` and `root/test/<class>`, cut square and scaled to `image_size`.

    Raises:
        UserError: naming the folder or file that is missing, empty or unreadable.
    """
    from torchvision.datasets import ImageFolder

    parts = []
    for name in ("train", "test"):
        folder = Path(config.root) / name
        if not folder.is_dir():
            raise UserError(
                f"data.root={config.root}: there is no folder {folder.absolute()}\n"
                "Put images into train/<class>/ and test/<class>/ under data.root."
            )
        try:
            parts.append(ImageFolder(str(folder)))
        except FileNotFoundError as error:
            raise UserError(f"data.root={config.root}: {error}") from None
    if parts[0].classes != parts[1].classes:
        odd = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise UserError(f"data.root={config.root}: train and test must have the same classes; only in one: {odd}")
    if len(parts[0].classes) < 2:
        raise UserError(f"data.root={config.root}: must have two or more classes, has {parts[0].classes}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        splits = []
        for part in parts:
            images = torch.empty(len(part), config.channels, config.image_size, config.image_size, dtype=torch.uint8)
            read = pool.map(lambda path: _read_image(path, config), (path for path, _ in part.samples))
            for position, image in enumerate(read):
                images[position] = image
            splits.append(Split(images, torch.tensor(part.targets)))
    return Source(splits[0], splits[1], tuple(parts[0].classes))


def _read_image(path: str, config: ImageFolderData) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file).convert("RGB" if config.channels == 3 else "L")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error}); remove or replace it") from None
    fitted = ImageOps.fit(upright, (config.image_size, config.image_size), Image.Resampling.BILINEAR)
    return _images(np.array(fitted)[None])[0]


def synthetic(config: SyntheticData) -> Source:
    """One random pattern a class, seen through noise: learnable, of any size, the same on every machine."""
    rng = generator(config.split_seed, "synthetic images")
    shape = (config.channels, config.image_size, config.image_size)
    patterns = torch.randint(0, 256, (config.classes, *shape), generator=rng)
    parts = []
    for count in (config.images, max(config.images // 5, config.classes)):
        labels = torch.arange(count) % config.classes
        images = torch.empty(count, *shape, dtype=torch.uint8)
        for chosen in torch.arange(count).split(1024):
            noise = torch.randint(0, 256, (len(chosen), *shape), generator=rng)
            images[chosen] = ((patterns[labels[chosen]] + 3 * noise) // 4).to(torch.uint8)
        parts.append(Split(images, labels))
    return Source(parts[0], parts[1], tuple(map(str, range(config.classes))))
