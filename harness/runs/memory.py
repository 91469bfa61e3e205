"""How much memory a training step needs, found without computing anything, and the batch that fits a device."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from harness.machine import free_device_memory, free_memory, total_memory
from harness.training.devices import Compute

# Weights, gradients, and what an optimizer such as AdamW keeps of each weight.
_PER_WEIGHT = 4
# What `auto` takes of a device, and the steps of an epoch that it leaves: a schedule needs steps to act on.
_SHARE, _STEPS = 0.5, 32


def step_bytes(model: nn.Module, shape: tuple[int, int, int], batch_size: int, precision: str) -> int | None:
    """About how many bytes a step on images of `shape` (channels, height, width) needs at its peak.

    These are the weights with all that training keeps of them, what the backward pass needs of the forward pass, and
    the two largest tensors in between. None for a network that does not run on tensors without content.
    """
    weights = {name: value.to("meta") for name, value in model.named_parameters()}
    buffers = {name: value.to("meta") for name, value in model.named_buffers()}
    own = {id(value) for value in weights.values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.empty(batch_size, *shape, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = functional_call(model.train(), {**weights, **buffers}, (images,))
            F.cross_entropy(logits, torch.empty(batch_size, dtype=torch.int64, device="meta"))
    except (RuntimeError, NotImplementedError):
        return None
    fixed = _PER_WEIGHT * sum(value.nbytes for value in weights.values())
    passing = sum(kept.values()) + 2 * max(kept.values(), default=0)
    return fixed + (passing // 2 if precision in ("bf16", "fp16") else passing)


def largest_batch(
    model: nn.Module, shape: tuple[int, int, int], precision: str, limit: int, at_most: int
) -> int | None:
    """The largest power of two, up to `at_most` images, whose step needs at most `limit` bytes, if there is one."""
    for exponent in reversed(range(at_most.bit_length())):
        needed = step_bytes(model, shape, 1 << exponent, precision)
        if needed is not None and needed <= limit:
            return 1 << exponent
    return None


def free_bytes(compute: Compute) -> int:
    """Of the device's memory, what is free now."""
    return free_device_memory(compute.device) if compute.device.type == "cuda" else free_memory()


def automatic_batch(model: nn.Module, shape: tuple[int, int, int], images: int, compute: Compute) -> int:
    """What `batch_size=auto` comes to for so many training images: the same on every machine with as much memory.

    It is the largest power of two whose step needs at most half of the device's memory and that leaves an epoch
    32 steps or more.
    """
    cuda = compute.device.type == "cuda"
    total = torch.cuda.get_device_properties(compute.device).total_memory if cuda else total_memory()
    at_most = max(1, images // _STEPS)
    return largest_batch(model, shape, compute.precision, math.floor(_SHARE * total), at_most) or 1
