"""The floor by arithmetic: what the network's step costs over what the machine was measured to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from harness.benchmarks.work import Work
from harness.training.devices import Compute
from harness.training.optim import build_optimizer

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 5
_SECONDS_A_REPEAT = 0.1


@dataclass(frozen=True)
class Floor:
    """Costs of training on one image, rates of the machine, and the images a second that follow from each."""

    flops_per_image: float
    bytes_per_image: float
    matrix_flops_per_second: float
    copy_bytes_per_second: float

    @property
    def by_flops(self) -> float:
        """Images a second if only the multiplications of the network took time."""
        return self.matrix_flops_per_second / self.flops_per_image

    @property
    def by_bytes(self) -> float:
        """Images a second if only memory traffic took time."""
        return self.copy_bytes_per_second / self.bytes_per_image

    def utilisation(self, images_per_second: float) -> float:
        """Model FLOPs utilisation at this speed: the part of the matrix rate that is used."""
        return images_per_second * self.flops_per_image / self.matrix_flops_per_second


def measure(work: Work) -> Floor:
    """Count one training step on a batch and measure the machine."""
    model = work.model(torch.channels_last)
    optimizer = build_optimizer(work.config.optimizer, model)
    images, labels = next(iter(work.loader().train(0)))
    flops, moved = _step_cost(model, optimizer, images, labels, work.compute)
    matrix, copy = machine_rates(work.compute)
    return Floor(flops / len(labels), moved / len(labels), matrix, copy)


def machine_rates(compute: Compute) -> tuple[float, float]:
    """FLOP/s of a square matrix product of random numbers in the run's precision, and bytes/s of a copy on the device,
    read and written bytes both counted. Medians of five repeats of a tenth of a second at least."""
    on_cuda = compute.device.type == "cuda"
    size, count = (8192, 2**28) if on_cuda else (1024, 2**25)
    dtype = _DTYPES.get(compute.precision, torch.float32)
    left, right = (torch.randn(size, size, device=compute.device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    seconds = _seconds(compute, lambda: torch.mm(left, right, out=product))
    source = torch.ones(count, device=compute.device)
    target = torch.empty_like(source)
    return 2 * size**3 / seconds, 2 * 4 * count / _seconds(compute, lambda: target.copy_(source))


def _seconds(compute: Compute, action: Callable[[], object]) -> float:
    """Seconds of one action, many in a row between two readings of the clock."""

    def several(times: int) -> float:
        compute.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            action()
        compute.synchronize()
        return (time.perf_counter() - began) / times

    several(3)
    times = max(1, round(_SECONDS_A_REPEAT / several(3)))
    return statistics.median(several(times) for _ in range(_REPEATS))


def _step_cost(
    model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, compute: Compute
) -> tuple[float, float]:
    """FLOPs of forward and backward pass as torch counts them (convolutions and matrix products), and bytes that must
    be moved: what autograd saves is written and read once, gradients likewise, and weights and the optimizer's state
    are read and written once more. A fused or recomputing network may move less."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    counter = FlopCounterMode(display=False)
    with counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), compute.autocast():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
    parameters = list(model.parameters())
    for parameter in parameters:
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    optimizer.step()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    states = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    state = sum(value.numel() * value.element_size() for value in states)
    return counter.get_total_flops(), 2 * sum(saved.values()) + 2 * weights + 2 * weights + 2 * state
