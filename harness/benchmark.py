"""Throughput of a training epoch, this harness beside the bare network step and plain DataLoader loops.

Every contestant trains the same network on the same images with the same batch size, optimizer and threads, in a
process of its own; contestants take turns, for several rounds, so that what slows the machine slows them all.
"""

from __future__ import annotations

import datetime
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import Config
from harness.data import Dataset, Loader, load_dataset
from harness.devices import Compute, set_up
from harness.engine import Batches, TrainStep, train_epoch
from harness.files import write_json
from harness.identity import plain, versions
from harness.models import build_model
from harness.optim import build_optimizer
from harness.schedule import build_scheduler
from harness.seeding import seed_global

_WARM_UP_BATCHES = 10


@dataclass(frozen=True)
class Result:
    """One contestant's round: images a second, mean training loss in nats, and peak memory in bytes."""

    images_per_second: float
    loss: float
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True)
class _Work:
    """What all contestants share."""

    config: Config
    compute: Compute
    dataset: Dataset

    def model(self, memory_format: torch.memory_format) -> nn.Module:
        seed_global(self.config.seed, "initial weights")
        model = build_model(self.config.model, self.dataset.shape, len(self.dataset.classes), [self.config.batch_size])
        return model.to(self.compute.device).to(memory_format=memory_format)


def _through_the_harness(work: _Work) -> tuple[float, float]:
    model = work.model(torch.channels_last)
    optimizer = build_optimizer(work.config.optimizer, model)
    scheduler = build_scheduler(work.config.scheduler, optimizer)
    loader = Loader(work.dataset, work.config.data, work.config.batch_size, work.config.seed, work.compute.device)
    step = TrainStep(model, optimizer, work.compute.scaler(), work.compute.autocast())

    def epoch(batches: Batches) -> float:
        return train_epoch(step, batches, scheduler).loss

    epoch(islice(loader.train(0), _WARM_UP_BATCHES))
    return _timed(work, lambda: epoch(loader.train(1)), len(work.dataset.train))


def _bare_step(work: _Work) -> tuple[float, float]:
    """The network's own step on one batch that lies on the device: the limit for loader and loop."""
    model = work.model(torch.channels_last)
    optimizer = build_optimizer(work.config.optimizer, model)
    loader = Loader(work.dataset, work.config.data, work.config.batch_size, work.config.seed, work.compute.device)
    images, labels = next(loader.train(0))
    autocast = work.compute.autocast()

    def steps(count: int) -> float:
        model.train()
        for _ in range(count):
            optimizer.zero_grad()
            with autocast:
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    steps(_WARM_UP_BATCHES)
    count = max(1, len(work.dataset.train) // work.config.batch_size)
    return _timed(work, lambda: steps(count), count * len(labels))


def _data_loader(workers: int) -> Callable[[_Work], tuple[float, float]]:
    def contestant(work: _Work) -> tuple[float, float]:
        """The loop of the source: torchvision's transforms for each image, a DataLoader, the optimizer's defaults."""
        model = work.model(torch.contiguous_format)
        optimizer = build_optimizer(_without_fused(work.config), model)
        scheduler = build_scheduler(work.config.scheduler, optimizer)
        loader: Any = torch.utils.data.DataLoader(
            _PlainDataset(work), batch_size=work.config.batch_size, shuffle=True, num_workers=workers,
            pin_memory=work.compute.device.type == "cuda",
        )  # fmt: skip
        autocast = work.compute.autocast()

        def epoch(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
            model.train()
            total, count = 0.0, 0
            for batch, targets in batches:
                images, labels = batch.to(work.compute.device), targets.to(work.compute.device)
                optimizer.zero_grad()
                with autocast:
                    loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(labels)
                count += len(labels)
            scheduler.step()
            return total / count

        epoch(islice(iter(loader), _WARM_UP_BATCHES))
        return _timed(work, lambda: epoch(iter(loader)), len(work.dataset.train))

    return contestant


class _PlainDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The training images as torchvision's own data sets give them: one PIL image at a time, transformed."""

    def __init__(self, work: _Work) -> None:
        from PIL import Image
        from torchvision import transforms

        data, (_, height, width) = work.config.data, work.dataset.shape
        images = work.dataset.train.images
        floats = images.float().div(255)
        steps: list[Any] = []
        if data.crop_padding:
            steps.append(transforms.RandomCrop((height, width), padding=data.crop_padding))
        if data.flip:
            steps.append(transforms.RandomHorizontalFlip())
        mean, std = floats.mean((0, 2, 3)).tolist(), floats.std((0, 2, 3)).tolist()
        self._transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
        self._images = images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self._labels = work.dataset.train.labels.tolist()
        self._picture = Image.fromarray

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._picture(self._images[index])), self._labels[index]


CONTESTANTS: dict[str, Callable[[_Work], tuple[float, float]]] = {
    "harness": _through_the_harness,
    "bare step": _bare_step,
    "DataLoader, 0 workers": _data_loader(0),
    "DataLoader, 2 workers": _data_loader(2),
}


def measure(config: Config, contestant: str) -> Result:
    """Let one contestant train one epoch in this process."""
    work = _Work(config, set_up(config), load_dataset(config.data))
    images_per_second, loss = CONTESTANTS[contestant](work)
    on_cuda = work.compute.device.type == "cuda"
    return Result(
        images_per_second=images_per_second,
        loss=loss,
        # Linux counts in KiB.
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device_bytes=torch.cuda.max_memory_allocated(work.compute.device) if on_cuda else 0,
    )


def compare(config: Config, overrides: Sequence[str], rounds: int, output: Path) -> None:
    """Measure all contestants in turn, `rounds` times; print the table and write `output` as JSON.

    Raises:
        UserError: when the file cannot be written.
    """
    console = Console()
    results: dict[str, list[Result]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        for name in CONTESTANTS:
            results[name].append(_in_own_process(name, overrides))
            shown = results[name][-1].images_per_second
            console.print(f"round {number + 1} of {rounds}, {name}: {shown:,.0f} images/s", highlight=False)
    compute = set_up(config)
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": compute.device_name,
        "precision": compute.precision,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "config": plain(config),
        "rounds": {name: [asdict(result) for result in found] for name, found in results.items()},
        "harness_ratio": {name: _ratios(results, name) for name in CONTESTANTS if name != "harness"},
    }
    write_json(output, record)
    console.print(_table(results, config, compute))
    console.print(f"written: {output}", highlight=False)


def _timed(work: _Work, train: Callable[[], float], images: int) -> tuple[float, float]:
    """Images a second and loss of training on so many images, with the device's work waited for."""
    work.compute.synchronize()
    began = time.perf_counter()
    loss = train()
    work.compute.synchronize()
    return images / (time.perf_counter() - began), loss


def _without_fused(config: Config) -> Any:
    return config.optimizer.model_copy(update={"fused": False})


def _in_own_process(name: str, overrides: Sequence[str]) -> Result:
    command = [sys.executable, sys.argv[0], *overrides, "--contestant", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def _ratios(results: dict[str, list[Result]], other: str) -> dict[str, float]:
    """The harness's speed over another's, round by round."""
    pairs = zip(results["harness"], results[other], strict=True)
    found = [ours.images_per_second / theirs.images_per_second for ours, theirs in pairs]
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def _table(results: dict[str, list[Result]], config: Config, compute: Compute) -> Table:
    model = getattr(config.model, "architecture", config.model.name)
    table = Table(
        title=f"{model} on {config.data.name}, batch {config.batch_size}, {compute.device_name}, {compute.precision}"
    )
    table.add_column("contestant")
    for heading in ("images/s", "harness speed ratio", "peak memory, MB", "loss"):
        table.add_column(heading, justify="right")
    for name, found in results.items():
        ratio = _ratios(results, name)
        table.add_row(
            name,
            f"{statistics.median(result.images_per_second for result in found):,.0f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if name != "harness" else "",
            f"{statistics.median(result.host_bytes for result in found) / 1e6:,.0f}",
            f"{statistics.median(result.loss for result in found):.3f}",
        )
    return table
