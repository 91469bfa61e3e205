"""The machine itself: its matrix rate in the run's precision and its copy rate, the ceilings of every floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.app.compose import compose_config
from harness.benchmarks.study import Row, Spread, machine, parser
from harness.benchmarks.work import Work
from harness.files import write_json
from harness.training.devices import Compute, set_up
from harness.training.steps import training_objective

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 5
_SECONDS_A_REPEAT = 0.1


def main(arguments: Sequence[str]) -> None:
    """Measure, print and write JSON."""
    options = parser("rates", __doc__, rounds=3).parse_intermixed_args(list(arguments))
    compute = set_up(compose_config(options.overrides)[0])
    rounds = [machine_rates(compute) for _ in range(options.rounds)]
    matrix, copy = (Spread.of(values) for values in zip(*rounds, strict=True))
    print(f"{compute.device_name}, {compute.precision}")
    print(f"matrix product: {matrix.median / 1e12:.3g} TFLOP/s ({matrix.min / 1e12:.3g} to {matrix.max / 1e12:.3g})")
    print(f"copy on the device: {copy.median / 1e9:.3g} GB/s ({copy.min / 1e9:.3g} to {copy.max / 1e9:.3g})")
    told = [{"matrix_flops_per_second": m, "copy_bytes_per_second": c} for m, c in rounds]
    where = {"device": compute.device_name, "precision": compute.precision}
    write_json(options.output, {**machine(), **where, "rounds": told})
    print(f"written: {options.output}")


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


def measure_floor(work: Work) -> Row:
    """What one training step on a batch costs an image, what the machine can do, and the images a second that follow.

    FLOPs are those of forward and backward pass as torch counts them (convolutions and matrix products), bytes those
    that must be moved: what autograd saves is written and read once, gradients likewise, and weights and the
    optimizer's state are read and written once more. A fused or recomputing network may move less.
    """
    model = work.model(torch.channels_last)
    optimizer = work.optimizer(model, fused=True)
    images, labels = next(iter(work.loader().train(0)))
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), work.compute.autocast():
            loss = training_objective(work.config)(model(images), labels)
        loss.backward()
    parameters = list(model.parameters())
    for parameter in parameters:
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    optimizer.step()
    states = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    weights, state = (sum(tensor.nbytes for tensor in tensors) for tensors in (parameters, states))
    # Gradients are as large as weights.
    moved = 2 * sum(saved.values()) + 2 * weights + 2 * weights + 2 * state
    return floor(counter.get_total_flops() / len(labels), moved / len(labels), *machine_rates(work.compute))


def floor(flops: float, moved: float, matrix: float, copy: float) -> Row:
    """Images a second if only the network's multiplications took time, or memory traffic, and what they follow from."""
    return {
        "flops_per_image": flops, "bytes_per_image": moved,
        "matrix_flops_per_second": matrix, "copy_bytes_per_second": copy,
        "images_per_second_by_flops": matrix / flops, "images_per_second_by_bytes": copy / moved,
    }  # fmt: skip
