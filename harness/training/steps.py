"""The training step that the configuration asks for: plain, through torch.compile, or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from harness.config import Config
from harness.errors import UserError
from harness.machine import uncollected
from harness.training.devices import Compute
from harness.training.loop import Objective, Step, TrainStep

# As many as PyTorch's notes on CUDA graphs advise, so that what is set up lazily is there before the capture.
_WARM_UP_STEPS = 3


def training_objective(config: Config) -> Objective:
    """What training makes small: cross-entropy in nats, of smoothed labels where that is asked for."""
    return partial(F.cross_entropy, label_smoothing=config.label_smoothing)


def build_step(
    config: Config,
    compute: Compute,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    batch_size: int,
) -> Step:
    """The step for batches of `batch_size` images and, more slowly, of any other size.

    Raises:
        UserError: where CUDA graphs are asked for and cannot be had.
    """
    objective = training_objective(config)
    plain = TrainStep(model, optimizer, scaler, compute.autocast(), objective)
    step: TrainStep | CompiledStep = plain
    if config.compile:
        _forget_other_networks((config.model, config.data, batch_size, compute.precision, config.deterministic))
        compiled = cast(nn.Module, torch.compile(model, dynamic=False))
        step = CompiledStep(TrainStep(compiled, optimizer, scaler, compute.autocast(), objective), plain, batch_size)
    if not config.cuda_graphs:
        return step
    if compute.device.type != "cuda":
        raise UserError(f"cuda_graphs=true: needs a CUDA device, must be false on {compute.device_name}")
    if compute.precision == "fp16":
        raise UserError("cuda_graphs=true: must be false with precision=fp16, whose loss scaling the host decides on")
    if not all(group.get("fused") for group in optimizer.param_groups):
        raise UserError(
            "cuda_graphs=true: needs an optimizer's fused implementation, as AdamW and SGD have; "
            f"must be false for this {type(optimizer).__name__}"
        )
    return GraphedStep(step, batch_size)


_compiled_for = ""


def _forget_other_networks(key: tuple[object, ...]) -> None:
    """Let a sweep's jobs with the same network use what the first of them compiled; torch keeps little of several."""
    global _compiled_for
    if repr(key) != _compiled_for:
        torch.compiler.reset()
        _compiled_for = repr(key)


class CompiledStep:
    """A step through torch.compile for whole batches; one of another size would be compiled by itself, for one step.

    So would evaluation, for which `network` is the one that is not compiled.
    """

    def __init__(self, compiled: TrainStep, plain: TrainStep, batch_size: int) -> None:
        self._compiled, self._plain, self._batch_size = compiled, plain, batch_size
        self.network, self.optimizer = plain.network, plain.optimizer

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `loop.Step`."""
        return (self._compiled if len(labels) == self._batch_size else self._plain)(images, labels)

    def close(self) -> None:
        """As `loop.Step`."""


class GraphedStep:
    """A step recorded once as a CUDA graph and replayed on every batch of `batch_size` images.

    The first batches, and those of other sizes, are trained without the graph, by the same kernels. The graph reads
    learning rates from the device's memory, where they lie as float32, so a schedule never forces another recording.
    The optimizer itself keeps them as the floats that the scheduler computes with. It is recorded on `stream`, else on
    one of its own: the libraries' workspaces belong to that, and graphs that are replayed at the same time must not
    share them. Source: PyTorch's notes on CUDA graphs, whole-network capture.
    """

    def __init__(
        self, step: TrainStep | CompiledStep, batch_size: int, stream: torch.cuda.Stream | None = None
    ) -> None:
        self.network = step.network
        self._step, self._optimizer, self._batch_size = step, step.optimizer, batch_size
        self._device = next(step.network.parameters()).device
        self._rates = [torch.zeros((), device=self._device) for _ in self._optimizer.param_groups]
        self._rates_there: list[float] = []
        self._warm_up_steps = 0
        self._recorded: tuple[Tensor, Tensor] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        # One of its device: that which all recordings share by default belongs to whichever was the first one's.
        self._aside = stream or (torch.cuda.Stream(self._device) if self._device.type == "cuda" else None)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `loop.Step`; the result is overwritten by the next call."""
        self._bring_rates()
        if len(labels) != self._batch_size:
            with self._rates_on_the_device():
                return self._step(images, labels)
        if self._recorded is None:
            if self._warm_up_steps < _WARM_UP_STEPS:
                self._warm_up_steps += 1
                with self._rates_on_the_device():
                    return self._warm_up(images, labels)
            self._images, self._labels = torch.empty_like(images), torch.empty_like(labels)
            with self._rates_on_the_device(), self._capturable():
                self._recorded = self._record()
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()
        return self._recorded

    def _bring_rates(self) -> None:
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        if rates != self._rates_there:
            for tensor, rate in zip(self._rates, rates, strict=True):
                tensor.fill_(rate)
            self._rates_there = rates

    def _rates_on_the_device(self) -> AbstractContextManager[None]:
        return _replaced(self._optimizer, "lr", self._rates)

    def _capturable(self) -> AbstractContextManager[None]:
        """Some optimizers want to be told; a fused one computes the same either way."""
        return _replaced(self._optimizer, "capturable", [True] * len(self._rates))

    def _warm_up(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        here = torch.cuda.current_stream(self._device)
        assert self._aside is not None
        self._aside.wait_stream(here)
        with torch.cuda.stream(self._aside):
            result = self._step(images, labels)
        here.wait_stream(self._aside)
        for tensor in result:
            tensor.record_stream(here)
        return result

    def _record(self) -> tuple[Tensor, Tensor]:
        self._graph = torch.cuda.CUDAGraph()
        # Of this thread alone: another may be bringing a state to the CPU meanwhile.
        recording = torch.cuda.graph(self._graph, stream=self._aside, capture_error_mode="thread_local")
        with uncollected(), recording:
            return self._step(self._images, self._labels)

    def _replay(self) -> None:
        assert self._graph is not None
        self._graph.replay()

    def close(self) -> None:
        """As `loop.Step`: the graph's memory, which nothing else may use, is free again."""
        self._recorded = None
        if self._graph is not None:
            self._graph.reset()
            self._graph = None


@contextmanager
def _replaced(optimizer: Optimizer, setting: str, values: Sequence[object]) -> Iterator[None]:
    """While entered, the parameter groups that have this setting have these values of it, one for each group."""
    pairs = [(group, value) for group, value in zip(optimizer.param_groups, values, strict=True) if setting in group]
    kept = [group[setting] for group, _ in pairs]
    for group, value in pairs:
        group[setting] = value
    try:
        yield
    finally:
        for (group, _), value in zip(pairs, kept, strict=True):
            group[setting] = value
