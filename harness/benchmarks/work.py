"""The work that all contestants of a benchmark share, and how it is timed."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config import Config
from harness.data.dataset import Dataset, load_dataset
from harness.data.loader import Loader
from harness.errors import UserError
from harness.machine import usable_cores
from harness.models.build import build_model
from harness.training.devices import Compute, set_up
from harness.training.learner import initial_network

# Steps before the clock starts: workers, kernels, graphs and the optimizer's state are there afterwards.
WARM_UP_STEPS = 10
# The field of `Result` by which all are compared.
SPEED = "images_per_second"


@dataclass(frozen=True)
class Trained:
    """One pass: its mean training loss in nats, and what was really trained."""

    loss: float
    images: int
    steps: int


@dataclass(frozen=True)
class Result:
    """One contestant's timed part; the loss, in nats, is that of its last epoch, the memory its process's peak."""

    images_per_second: float
    seconds: float
    loss: float
    images: int
    steps: int
    host_bytes: int
    device_bytes: int
    device: str
    precision: str
    threads: int

    def __str__(self) -> str:
        return f"{self.images_per_second:,.0f} images/s"


@dataclass(frozen=True)
class Work:
    """The same network, images, batches and settings for everyone.

    The training images are a whole number of batches, so that loaders which drop a last, smaller batch do no less.
    """

    config: Config
    compute: Compute
    dataset: Dataset
    epochs: int

    @property
    def device(self) -> torch.device:
        """The device trained on."""
        return self.compute.device

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.dataset.train) // self.config.batch_size

    @property
    def workers(self) -> int:
        """As many loader workers as cores may be used."""
        return usable_cores()

    def model(self, memory_format: torch.memory_format) -> nn.Module:
        """The network on the device, with the same initial weights each time."""
        return initial_network(self.config, self.compute, self.network, memory_format)

    def network(self) -> nn.Module:
        """The network on the CPU, its weights drawn from torch's global generator."""
        return build_model(self.config.model, self.dataset.shape, len(self.dataset.classes), [self.config.batch_size])

    def loader(self) -> Loader:
        """This harness's own loader: all images on the device."""
        return Loader(self.dataset, self.config, self.device)

    def timed(self, train: Callable[[int, int | None], Trained]) -> Result:
        """Warm up, then time whole epochs of `train(epoch, limit in steps)`."""
        train(0, min(WARM_UP_STEPS, self.steps))
        began = self.now()
        passes = [train(epoch, None) for epoch in range(1, self.epochs + 1)]
        return self.result(self.now() - began, passes)

    def now(self) -> float:
        """Seconds on a clock; all work of the device is done."""
        self.compute.synchronize()
        return time.perf_counter()

    def result(self, seconds: float, passes: list[Trained]) -> Result:
        """What these passes came to in so many seconds."""
        compute, images = self.compute, sum(trained.images for trained in passes)
        on_cuda = compute.device.type == "cuda"
        return Result(
            images_per_second=images / seconds,
            seconds=seconds,
            loss=passes[-1].loss,
            images=images,
            steps=sum(trained.steps for trained in passes),
            # The peak of this process, without its children; Linux counts in KiB.
            host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            device_bytes=torch.cuda.max_memory_allocated(compute.device) if on_cuda else 0,
            device=compute.device_name,
            precision=compute.precision,
            threads=torch.get_num_threads(),
        )


class Counted:
    """Passes batches through, `limit` at most, and counts what was taken."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]], limit: int | None) -> None:
        self._batches, self._limit = batches, limit
        self.images = self.steps = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in islice(self._batches, self._limit):
            self.steps += 1
            self.images += len(labels)
            yield images, labels

    def trained(self, loss: float) -> Trained:
        """The pass that these batches made."""
        return Trained(loss, self.images, self.steps)


class PlainImages(torch.utils.data.Dataset[tuple[Any, int]]):
    """The training images as torchvision's own data sets give them: one PIL image at a time, transformed."""

    def __init__(self, work: Work) -> None:
        from PIL import Image

        images = work.dataset.train.images.decoded().pixels
        floats = images.float().div(255)
        self.mean, self.std = floats.mean((0, 1, 2)).tolist(), floats.std((0, 1, 2)).tolist()
        self.transform = self.composed(work, tensors=True)
        self._images = images.squeeze(-1).numpy()
        self._labels = work.dataset.train.labels.tolist()
        self._picture = Image.fromarray

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self._picture(self._images[index])), self._labels[index]

    def composed(self, work: Work, tensors: bool) -> Any:
        """The configured crop and flip by torchvision; then a normalised tensor, or the PIL image as it is."""
        from torchvision import transforms

        data, (_, height, width) = work.config.data, work.dataset.shape
        steps: list[Any] = []
        if data.crop_padding:
            steps.append(transforms.RandomCrop((height, width), padding=data.crop_padding))
        if data.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if tensors:
            steps += [transforms.ToTensor(), transforms.Normalize(self.mean, self.std)]
        return transforms.Compose(steps)


def without_fused(config: Config) -> Any:
    """The optimizer's settings with torch's own choice of kernels, as in a loop that does not ask for fused ones."""
    return config.optimizer.model_copy(update={"fused": False})


def prepare(config: Config, file: Path) -> int:
    """Read the data once for all contestants, leave the images beyond the last whole batch out, and save the rest.

    Returns the number of training images.

    Raises:
        UserError: for data that cannot be had, and when there is not one whole batch.
    """
    dataset = load_dataset(config.data)
    count = len(dataset.train) // config.batch_size * config.batch_size
    if count == 0:
        raise UserError(
            f"batch_size={config.batch_size}: must be at most {len(dataset.train)}, the training images there are"
        )
    train = dataset.train.take(torch.arange(count)).in_memory()
    torch.save(replace(dataset, train=train, val=dataset.val.in_memory(), test=dataset.test.in_memory()), file)
    return count


def open_work(config: Config, file: Path, epochs: int) -> Work:
    """The work on what `prepare` saved, with torch set up for the configured device."""
    # The file is this benchmark's own.
    dataset: Dataset = torch.load(file, weights_only=False)
    return Work(config, set_up(config), dataset, epochs)
