"""The work that all contestants of a benchmark share, and how it is timed."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.benchmarks.study import SPEED, Row
from harness.config import Config, DataConfig, ImageFolderData
from harness.data import sources
from harness.data.dataset import Dataset, load_dataset
from harness.data.images import ImageFiles
from harness.data.loader import Loader
from harness.errors import UserError
from harness.models.build import build_model
from harness.training.devices import Compute, set_up
from harness.training.learner import Learner, initial_network
from harness.training.optim import build_optimizer

Batches = Iterable[tuple[Tensor, Tensor]]
# Steps before the clock starts: workers, kernels, graphs and the optimizer's state are there afterwards.
WARM_UP_STEPS = 10


@dataclass(frozen=True)
class Work:
    """The same network, images, batches and settings for everyone.

    The training images are a whole number of batches, so that loaders which drop a last, smaller batch do no less.
    Where all are treated `alike`, nobody keeps the memory format and the optimizer's kernels that its own way of
    training comes with.
    """

    config: Config
    compute: Compute
    dataset: Dataset
    epochs: int
    alike: bool = False

    @property
    def device(self) -> torch.device:
        """The device trained on."""
        return self.compute.device

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.dataset.train) // self.config.batch_size

    def layout(self, own: torch.memory_format) -> torch.memory_format:
        """The memory format of weights and images for a contestant whose own this is."""
        return torch.channels_last if self.alike else own

    def model(self, own: torch.memory_format) -> nn.Module:
        """The network on the device, with the same initial weights each time, in `layout(own)`."""
        return initial_network(self.config, self.compute, self.network, self.layout(own))

    def compiled(self, model: nn.Module) -> nn.Module:
        """The network through torch.compile where that is configured, as the harness's step does it."""
        return cast(nn.Module, torch.compile(model, dynamic=False)) if self.config.compile else model

    def network(self) -> nn.Module:
        """The network on the CPU, its weights drawn from torch's global generator."""
        return build_model(self.config.model, self.dataset.shape, len(self.dataset.classes), [self.config.batch_size])

    def learner(self) -> Learner:
        """What trains in train.py."""
        return Learner(self.config, self.compute, self.network, self.config.batch_size)

    def loader(self) -> Loader:
        """This harness's own loader: all images on the device."""
        return Loader(self.dataset, self.config, self.device)

    def optimizer(self, model: nn.Module, fused: bool) -> Optimizer:
        """As configured, or by torch's own choice of kernels, as in a loop that does not ask for fused ones."""
        config = self.config.optimizer
        return build_optimizer(config if fused or self.alike else config.model_copy(update={"fused": False}), model)

    def treatment(self, network: nn.Module, optimizer: Optimizer, cuda_graphs: bool = False) -> dict[str, bool]:
        """What is done for speed's sake, as found on what is trained, whatever was asked for."""
        kernels = [weight for weight in network.parameters() if weight.dim() == 4]
        return {
            "compile": isinstance(network, torch._dynamo.OptimizedModule),
            "channels_last": all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels),
            "fused": all(group.get("fused") is True for group in optimizer.param_groups),
            "cuda_graphs": cuda_graphs,
        }

    def timed(
        self, batches: Callable[[int], Batches], train: Callable[[int, Counted], float], treatment: Mapping[str, bool]
    ) -> Row:
        """Warm up, then time whole epochs: `train(epoch, batches(epoch))`, which gives the mean loss in nats."""
        train(0, Counted(batches(0), min(WARM_UP_STEPS, self.steps)))
        images = steps = 0
        began = self.now()
        for epoch in range(1, self.epochs + 1):
            counted = Counted(batches(epoch))
            loss = train(epoch, counted)
            images, steps = images + counted.images, steps + counted.steps
        return self.result(self.now() - began, loss, images, steps, treatment)

    def now(self) -> float:
        """Seconds on a clock; all work of the device is done."""
        self.compute.synchronize()
        return time.perf_counter()

    def result(self, seconds: float, loss: float, images: int, steps: int, treatment: Mapping[str, bool]) -> Row:
        """The figures of a timed part; the loss, in nats, is that of its last epoch, the memory this process's peak."""
        on_cuda = self.device.type == "cuda"
        return {
            SPEED: images / seconds, "seconds": seconds, "loss": loss, "images": images, "steps": steps,
            # Without its children; Linux counts in KiB.
            "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "device_bytes": torch.cuda.max_memory_allocated(self.device) if on_cuda else 0,
            "device": self.compute.device_name, "precision": self.compute.precision,
            "threads": torch.get_num_threads(), "treatment": dict(treatment),
        }  # fmt: skip


class Counted:
    """Passes batches through, `limit` at most, and counts what was taken."""

    def __init__(self, batches: Batches, limit: int | None = None) -> None:
        self._batches, self._limit = batches, limit
        self.images = self.steps = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in islice(self._batches, self._limit):
            self.steps += 1
            self.images += len(labels)
            yield images, labels


class PlainImages(torch.utils.data.Dataset[tuple[Any, int]]):
    """The training images as torchvision's own data sets give them: one PIL image at a time, cropped and flipped by
    torchvision as configured, then a normalised tensor, or what `last` makes of the image."""

    def __init__(self, work: Work, last: Callable[[Any], Any] | None = None) -> None:
        from PIL import Image
        from torchvision import transforms

        images, data = work.dataset.train.images.decoded().pixels, work.config.data
        floats = images.float().div(255)
        self.mean, self.std = floats.mean((0, 1, 2)).tolist(), floats.std((0, 1, 2)).tolist()
        steps: list[Any] = []
        if data.crop_padding:
            steps.append(transforms.RandomCrop(work.dataset.shape[1:], padding=data.crop_padding))
        if data.flip:
            steps.append(transforms.RandomHorizontalFlip())
        steps += [last] if last else [transforms.ToTensor(), transforms.Normalize(self.mean, self.std)]
        self._transformed, self._picture = transforms.Compose(steps), Image.fromarray
        self._images, self._labels = images.squeeze(-1).numpy(), work.dataset.train.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transformed(self._picture(self._images[index])), self._labels[index]


def decode(config: DataConfig, file: Path) -> None:
    """Read the configured data, images in files decoded, and save them whole for `take_images_from`.

    Raises:
        UserError: for data that cannot be had.
    """
    source = sources.find(config).read()
    decoded = replace(source, train=source.train.in_memory(), test=source.test.in_memory())
    begun = file.with_suffix(".begun")
    torch.save((decoded, described(config, source)), begun)
    begun.replace(file)


def take_images_from(file: Path) -> str:
    """From now on this process takes what `decode` saved, whatever data are configured; tells as `described`."""
    # The file is this benchmark's own.
    source, told = torch.load(file, weights_only=False)
    unread = sources.Unread((str(file), file.stat().st_mtime_ns), lambda: source)
    setattr(sources, "find", lambda _: unread)  # noqa: B010  (a type checker minds plain assignment)
    return str(told)


def described(config: DataConfig, source: sources.Source) -> str:
    """Which images these are: how many, from where, and of files in which format."""
    told = f"{len(source.train):,} + {len(source.test):,} images of {config.name}"
    if isinstance(config, ImageFolderData) and isinstance(source.train.images, ImageFiles):
        from PIL import Image, JpegImagePlugin

        with Image.open(source.train.images.paths[0]) as image:
            sampling = {0: " 4:4:4", 1: " 4:2:2", 2: " 4:2:0"}.get(JpegImagePlugin.get_sampling(image), "")
            told += f" {Path(config.root).name}, {image.format}{sampling}"
    return told


def prepare(config: Config, file: Path) -> int:
    """Read the data once, leave the images beyond the last whole batch out, save the rest, and tell how many.

    Raises:
        UserError: for data that cannot be had, and when there is not one whole batch.
    """
    dataset = load_dataset(config.images)
    count = len(dataset.train) // config.batch_size * config.batch_size
    if count == 0:
        most = f"{len(dataset.train)}, the training images there are"
        raise UserError(f"batch_size={config.batch_size}: must be at most {most}")
    train = dataset.train.take(torch.arange(count)).in_memory()
    torch.save(replace(dataset, train=train, val=dataset.val.in_memory(), test=dataset.test.in_memory()), file)
    return count


def open_work(config: Config, file: Path, epochs: int, alike: bool) -> Work:
    """The work on what `prepare` saved, with torch set up for the configured device."""
    # The file is this benchmark's own.
    dataset: Dataset = torch.load(file, weights_only=False)
    return Work(config, set_up(config), dataset, epochs, alike)
