"""Who is compared: this harness, the bare step, plain DataLoader loops, Lightning and timm."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.benchmarks.work import Counted, PlainImages, Result, Trained, Work, without_fused
from harness.machine import usable_cores
from harness.training.learner import Learner
from harness.training.optim import build_optimizer
from harness.training.schedule import build_scheduler

HARNESS, BARE = "this harness", "bare step"


@dataclass(frozen=True)
class Contestant:
    """How one trains; the installed package that it needs, if any; and whether its loss is to be like the others'."""

    measure: Callable[[Work], Result]
    package: str | None = None
    compared_loss: bool = True

    @property
    def why_missing(self) -> str | None:
        """What to do when the package is not installed, else None."""
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return None
        return f"{self.package} is not installed; pip install -e '.[bench]' does it"


def contestants() -> dict[str, Contestant]:
    """All by name, in the order of the tables; names tell the number of workers on this machine."""
    many = f"{usable_cores()} worker{'s' if usable_cores() > 1 else ''}"
    return {
        HARNESS: Contestant(_harness),
        BARE: Contestant(_bare_step, compared_loss=False),
        "DataLoader loop (0 workers)": Contestant(lambda work: _data_loader(work, 0)),
        f"DataLoader loop ({many})": Contestant(lambda work: _data_loader(work, work.workers)),
        "Lightning + DataLoader (0 workers)": Contestant(lambda work: _lightning(work, 0), "lightning"),
        f"Lightning + DataLoader ({many})": Contestant(lambda work: _lightning(work, work.workers), "lightning"),
        "Lightning + this harness's loader": Contestant(lambda work: _lightning(work, None), "lightning"),
        f"timm ({many})": Contestant(_timm, "timm"),
    }


def _harness(work: Work) -> Result:
    """The training loop of train.py."""
    learner, loader = _learner(work), work.loader()

    def train(epoch: int, limit: int | None) -> Trained:
        batches = Counted(loader.train(epoch), limit)
        return batches.trained(learner.epoch(epoch, batches).loss)

    return work.timed(train)


def _bare_step(work: Work) -> Result:
    """The harness's step on one batch that lies on the device: the limit for loader and loop."""
    step = _learner(work).step
    images, labels = next(iter(work.loader().train(0)))

    def train(epoch: int, limit: int | None) -> Trained:
        batches = Counted([(images, labels)] * work.steps, limit)
        step.network.train()
        for _ in batches:
            loss, _ = step(images, labels)
        return batches.trained(loss.item())

    return work.timed(train)


def _learner(work: Work) -> Learner:
    return Learner(work.config, work.compute, work.network, work.config.batch_size)


def _data_loader(work: Work, workers: int) -> Result:
    """The loop of the source: torchvision's transforms for each image, a DataLoader, the optimizer's defaults."""
    model = work.model(torch.contiguous_format)
    optimizer = build_optimizer(without_fused(work.config), model)
    scheduler = build_scheduler(work.config.scheduler, optimizer)
    scaler, autocast, loader = work.compute.scaler(), work.compute.autocast(), data_loader(work, workers)

    def train(epoch: int, limit: int | None) -> Trained:
        batches, total = Counted(loader, limit), 0.0
        model.train()
        for batch, targets in batches:
            images, labels = batch.to(work.device), targets.to(work.device)
            optimizer.zero_grad()
            with autocast:
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item() * len(labels)
        scheduler.step()
        return batches.trained(total / batches.images)

    return work.timed(train)


def data_loader(work: Work, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    """torch's DataLoader as its documentation recommends: workers that stay between epochs, pinned memory for CUDA."""
    loader: Any = torch.utils.data.DataLoader(
        PlainImages(work), batch_size=work.config.batch_size, shuffle=True, num_workers=workers,
        pin_memory=work.device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    found: Iterable[tuple[Tensor, Tensor]] = loader
    return found


def _lightning(work: Work, workers: int | None) -> Result:
    from harness.benchmarks.lightning_peer import measure

    return measure(work, work.loader() if workers is None else data_loader(work, workers))


def _timm(work: Work) -> Result:
    from harness.benchmarks.timm_peer import measure

    return measure(work)
