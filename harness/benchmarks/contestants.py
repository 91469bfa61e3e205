"""Who is compared: this harness, the bare step, plain DataLoader loops, Lightning and timm."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from harness.benchmarks.study import Row
from harness.benchmarks.work import Batches, Counted, PlainImages, Work
from harness.machine import usable_cores
from harness.training.learner import Learner
from harness.training.schedule import build_scheduler
from harness.training.steps import GraphedStep, training_objective

HARNESS, BARE = "this harness", "bare step"


@dataclass(frozen=True)
class Contestant:
    """How one trains, and the installed package that it needs, if any."""

    measure: Callable[[Work], Row]
    package: str | None = None


def why_missing(package: str | None) -> str | None:
    """What to do when a package that is needed is not installed, else None."""
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"{package} is not installed; pip install -c scripts/constraints.txt -e '.[bench]' does it"


def _harness(work: Work) -> Row:
    """The training loop of train.py."""
    learner = work.learner()
    train = work.loader().train
    return work.timed(
        train, lambda epoch, batches: learner.epoch(epoch, batches).score().loss, _treatment(work, learner)
    )


def _treatment(work: Work, learner: Learner) -> dict[str, bool]:
    return work.treatment(learner.step.network, learner.optimizer, isinstance(learner.step, GraphedStep))


def _bare_step(work: Work) -> Row:
    """The harness's step on one batch that lies on the device: the limit for loader and loop."""
    learner = work.learner()
    step = learner.step
    images, labels = next(iter(work.loader().train(0)))

    def train(_epoch: int, batches: Counted) -> float:
        step.network.train()
        for _ in batches:
            loss, _ = step(images, labels)
        return loss.item()

    return work.timed(lambda _: [(images, labels)] * work.steps, train, _treatment(work, learner))


def _plain_loop(work: Work, workers: int) -> Row:
    """The loop of the source: torchvision's transforms for each image, a DataLoader, the optimizer's defaults."""
    layout, model = work.layout(torch.contiguous_format), work.model(torch.contiguous_format)
    optimizer, network = work.optimizer(model, fused=False), work.compiled(model)
    scheduler = build_scheduler(work.config.scheduler, optimizer)
    scaler, autocast, loader = work.compute.scaler(), work.compute.autocast(), _data_loader(work, workers)
    objective = training_objective(work.config)

    def train(_epoch: int, batches: Counted) -> float:
        total = 0.0
        network.train()
        for batch, targets in batches:
            images, labels = batch.to(work.device, memory_format=layout), targets.to(work.device)
            optimizer.zero_grad()
            with autocast:
                loss = objective(network(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item() * len(labels)
        scheduler.step()
        return total / batches.images

    return work.timed(lambda _: loader, train, work.treatment(network, optimizer))


def _data_loader(work: Work, workers: int) -> Batches:
    """torch's DataLoader as its documentation recommends: workers that stay between epochs, pinned memory for CUDA."""
    return torch.utils.data.DataLoader(
        PlainImages(work), batch_size=work.config.batch_size, shuffle=True, num_workers=workers,
        pin_memory=work.device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip


def _lightning(work: Work, workers: int | None) -> Row:
    """With so many workers of a DataLoader, or with this harness's loader."""
    from harness.benchmarks.lightning_peer import measure

    return measure(work, work.loader() if workers is None else _data_loader(work, workers))


def _timm(work: Work) -> Row:
    from harness.benchmarks.timm_peer import measure

    return measure(work)


_CORES = usable_cores()
_MANY = f"{_CORES} worker{'s' if _CORES > 1 else ''}"
PLAIN_LOOP = f"DataLoader loop ({_MANY})"
# In the order of the tables; names tell the number of workers on this machine.
CONTESTANTS = {
    HARNESS: Contestant(_harness),
    BARE: Contestant(_bare_step),
    "DataLoader loop (0 workers)": Contestant(partial(_plain_loop, workers=0)),
    PLAIN_LOOP: Contestant(partial(_plain_loop, workers=_CORES)),
    "Lightning + DataLoader (0 workers)": Contestant(partial(_lightning, workers=0), "lightning"),
    f"Lightning + DataLoader ({_MANY})": Contestant(partial(_lightning, workers=_CORES), "lightning"),
    "Lightning + this harness's loader": Contestant(partial(_lightning, workers=None), "lightning"),
    f"timm ({_MANY})": Contestant(_timm, "timm"),
}
