"""timm's loader, optimizer factory and loop settings on the same work.

As in its training script: `create_loader` with its prefetcher (uint8 batches, normalised on the device, copied on a
stream of their own), channels_last (its option), `create_optimizer_v2`, torch's autocast, no averaged weights, and the
loss looked at every 50 updates, its log interval. Its transforms are replaced by the same crop and flip as everyone's.
The scheduler is torch's, stepped after the epoch, since timm's own multistep decays one epoch earlier.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.data import create_loader
from timm.data.transforms import ToNumpy
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from harness.benchmarks.study import Row
from harness.benchmarks.work import Counted, PlainImages, Work
from harness.errors import UserError
from harness.machine import usable_cores
from harness.training.schedule import build_scheduler

_LOG_INTERVAL = 50


def measure(work: Work) -> Row:
    """Train with as many workers as cores.

    Raises:
        UserError: for an optimizer other than AdamW and SGD, and for parameter groups.
    """
    model = work.model(torch.channels_last)
    optimizer, network = _optimizer(work, model), work.compiled(model)
    scheduler = build_scheduler(work.config.scheduler, optimizer)
    scaler, autocast, loader = work.compute.scaler(), work.compute.autocast(), _loader(work)
    criterion = nn.CrossEntropyLoss(label_smoothing=work.config.label_smoothing).to(work.device)

    def train(_epoch: int, batches: Counted) -> float:
        total = torch.zeros((), device=work.device)
        network.train()
        for images, labels in batches:
            ordered = images.contiguous(memory_format=torch.channels_last)
            with autocast:
                loss = criterion(network(ordered), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            total += loss.detach() * len(labels)
            if batches.steps % _LOG_INTERVAL == 0:
                loss.item()
        scheduler.step()
        return total.item() / batches.images

    return work.timed(lambda _: loader, train, work.treatment(network, optimizer))


def _loader(work: Work) -> Any:
    images = PlainImages(work, ToNumpy())
    # Of its own transforms, which it sets on the data set, nothing is seen.
    return create_loader(
        images, work.dataset.shape, work.config.batch_size, is_training=True, no_aug=True, device=work.device,
        mean=tuple(images.mean), std=tuple(images.std), num_workers=usable_cores(),
        pin_memory=work.device.type == "cuda", use_prefetcher=True, persistent_workers=True,
    )  # fmt: skip


def _optimizer(work: Work, model: nn.Module) -> Optimizer:
    config = work.config.optimizer
    name = config.target.rpartition(".")[2]
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in config.arguments.items()}
    if name not in ("AdamW", "SGD") or config.groups:
        raise UserError(f"optimizer={config.target}: must be AdamW or SGD without groups to compare with timm")
    if name == "SGD":
        name = "sgd" if arguments.pop("nesterov", False) else "momentum"
    if work.alike:
        arguments["fused"] = True
    # timm would leave norms and biases without weight decay: not the same optimizer.
    made: Optimizer = create_optimizer_v2(model, name.lower(), filter_bias_and_bn=False, **arguments)
    for group in made.param_groups:
        group["name"] = "default"
    return made
