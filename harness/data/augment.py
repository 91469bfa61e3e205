"""Random changes of whole batches in two places: crops and flips of raw images, then changes of normalised ones.

Raw images are (count, height, width, channels) uint8 and contiguous. There are two ways to crop and flip a batch, for
what CPUs and what GPUs are good at; both give the same bits. What changes normalised batches is a list of values with
one protocol, `Augmentation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.config import Config
from harness.errors import UserError
from harness.instantiate import check_arguments, refusing, resolve_class

# Brings a tensor to the device of the images, which on CUDA does not wait for it.
Send = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EpochAugmentation:
    """The choices for every image of one epoch, in the order of the shuffled epoch, on the CPU.

    `rows` and `columns` (count,) int64 are crop offsets in pixels of the image with `padding` zeros around it; `flips`
    (count,) bool, or None without flips.
    """

    padding: int
    rows: Tensor
    columns: Tensor
    flips: Tensor | None

    @staticmethod
    def draw(count: int, padding: int, flip: bool, rng: torch.Generator) -> EpochAugmentation:
        """Draw the choices of one epoch at once."""
        rows, columns = torch.randint(0, 2 * padding + 1, (2, count), generator=rng)
        flips = torch.rand(count, generator=rng) < 0.5 if flip else None
        return EpochAugmentation(padding, rows, columns, flips)


class RowCrops:
    """Crops and flips the batches of an epoch row by row: for the CPU."""

    def __init__(self, choices: EpochAugmentation, height: int, width: int, channels: int) -> None:
        self._choices, self._bytes = choices, width * channels
        padding, flips = choices.padding, choices.flips
        line = (width + 2 * padding) * channels
        self._image = (height + 2 * padding) * line
        self._lines = torch.arange(0, height * line, line)
        # A flipped image is mirrored before it is cropped.
        columns = (
            choices.columns if flips is None else torch.where(flips, 2 * padding - choices.columns, choices.columns)
        )
        self._offsets = choices.rows * line + columns * channels

    def __call__(self, images: Tensor, chosen: slice) -> Tensor:
        """The batch (batch, height, width, channels) of raw images at the positions `chosen` of the epoch.

        Flipped images are brought together and mirrored in one piece, then whole rows of pixels are copied.
        """
        count = len(images)
        places = torch.arange(0, count * self._image, self._image)
        if self._choices.flips is not None:
            flips = self._choices.flips[chosen]
            order = flips.argsort(stable=True)
            images = images.flatten(1).index_select(0, order).view(images.shape)
            mirrored = images[count - int(flips.sum()) :]
            mirrored.copy_(mirrored.flip(2))
            places = torch.empty_like(places).index_copy_(0, order, places)
        source = padded(images, self._choices.padding)
        starts = (places + self._offsets[chosen])[:, None] + self._lines
        # Every run of so many bytes, as a view in which rows overlap.
        runs = source.view(-1).as_strided((source.numel() - self._bytes + 1, self._bytes), (1, 1))
        return runs.index_select(0, starts.view(-1)).view(images.shape)


class PixelCrops:
    """Crops and flips the batches of an epoch pixel by pixel: for GPUs.

    `places` (count,) int64 are the images' positions among the padded images that a batch is made from. `send` brings a
    tensor to their device.
    """

    def __init__(self, choices: EpochAugmentation, places: Tensor, height: int, width: int, send: Send) -> None:
        line = width + 2 * choices.padding
        starts = (places * (height + 2 * choices.padding) + choices.rows) * line + choices.columns
        steps = torch.ones_like(starts)
        if choices.flips is not None:
            starts, steps = starts + choices.flips * (width - 1), steps - 2 * choices.flips
        self._starts, self._steps = send(torch.stack([starts, steps]))[:, :, None]
        self._columns = send(torch.arange(width))
        self._lines = send(torch.arange(0, height * line, line))[:, None]

    def __call__(self, source: Tensor, chosen: slice) -> Tensor:
        """The batch (batch, height, width, channels) at the positions `chosen` of the epoch, from padded images."""
        along = torch.addcmul(self._starts[chosen], self._steps[chosen], self._columns)
        pixels = along[:, None, :] + self._lines
        channels = source.shape[3]
        return source.view(-1, channels).index_select(0, pixels.view(-1)).view(*pixels.shape, channels)


def padded(images: Tensor, padding: int) -> Tensor:
    """The images with zeros around them, contiguous."""
    return F.pad(images, (0, 0, padding, padding, padding, padding)) if padding else images


class Normalisation:
    """Takes the mean off and divides by the standard deviation, channel by channel."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], height: int, width: int, device: torch.device
    ) -> None:
        # A value for each byte of an image: an image is then one piece of arithmetic, whatever its channels.
        def whole(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32).expand(height, width, -1).contiguous().to(device)

        self._scale = whole([1 / s for s in std])
        self._shift = whole([-m / s for m, s in zip(mean, std, strict=True)])

    def __call__(self, images: Tensor) -> Tensor:
        """Raw images as (count, channels, height, width) float32 in channels-last order."""
        # The same bits: CPUs are quicker in two passes, and a GPU converts in passing.
        scaled = images.float().mul_(self._scale) if images.device.type == "cpu" else torch.mul(images, self._scale)
        return scaled.add_(self._shift).permute(0, 3, 1, 2)


# One epoch's choices of an augmentation: it changes the batch at these positions of the shuffled epoch, in place where
# that is faster. Images are normalised, (batch, channels, height, width) float32, targets labels (batch,) int64.
Change = Callable[[Tensor, Tensor, slice], tuple[Tensor, Tensor]]


@runtime_checkable
class Augmentation(Protocol):
    """A random change of training images or targets, as a value that holds its settings.

    One of your own takes a class and a file in conf/augment that names it by its import path.
    """

    def draw(self, count: int, shape: tuple[int, int, int], rng: torch.Generator, send: Send) -> Change:
        """Draw the choices for `count` images of `shape` (channels, height, width) at once, on the CPU.

        Raises:
            UserError: for settings that do not fit such images.
        """
        ...


def augmentations(config: Config) -> tuple[Augmentation, ...]:
    """What is done to normalised batches: the data set's own cutout, then all of the group `augment`, in order.

    Raises:
        UserError: for what is no augmentation, and for settings that it does not have or refuses.
    """
    chosen: list[Augmentation] = [Cutout(config.data.cutout)] if config.data.cutout else []
    for name, settings in config.augment.items():
        key, arguments = f"augment.{name}", settings.arguments
        cls = resolve_class(key, settings.target, Augmentation)
        check_arguments(key, cls, arguments, given=())
        with refusing(key, cls, arguments):
            chosen.append(cls(**arguments))
    return tuple(chosen)


class Cutout:
    """Blanks a square of `size` pixels a side around a random pixel of each image, as far as it lies inside it.

    DeVries and Taylor (2017), "Improved regularization of convolutional neural networks with cutout".
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def draw(self, count: int, shape: tuple[int, int, int], rng: torch.Generator, send: Send) -> Change:
        """As `Augmentation`."""
        side = min(shape[1:])
        if self.size >= side:
            raise UserError(f"data.cutout={self.size}: must be below {side}, the images' shorter side in pixels")
        spans = []
        for extent in shape[1:]:
            first = torch.randint(0, extent, (count, 1), generator=rng) - self.size // 2
            pixels = torch.arange(extent)
            spans.append(send((pixels >= first) & (pixels < first + self.size)))
        rows, columns = spans

        def blank(images: Tensor, targets: Tensor, chosen: slice) -> tuple[Tensor, Tensor]:
            square = rows[chosen, None, :, None] & columns[chosen, None, None, :]
            return images.masked_fill_(square, 0.0), targets

        return blank
