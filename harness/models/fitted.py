"""Networks of torchvision, fitted to the data's channels, size and number of classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.config import TorchvisionModel
from harness.errors import UserError, closest
from harness.models.convnets import size_text

# Image sizes to try, in pixels, for torchvision networks that do not run at the data's own size.
_RESIZES = (32, 64, 96, 128, 224, 299)
_BUILT_FOR_A_SIZE = ("vit_", "maxvit")


class Resized(nn.Module):
    """A network behind a bilinear resize of its input to `size` pixels on both sides."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, channels, height, width)."""
        resized = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=False)
        logits: Tensor = self.network(resized)
        return logits


class _Outline(TorchFunctionMode):
    """Without content, beside `torch.device("meta")`, but for the numbers that a RegNet finds its widths by."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.arange, torch.tensor):
            return func(*args, **{"device": "cpu", **(kwargs or {})})
        return func(*args, **(kwargs or {}))


def torchvision_outline(
    config: TorchvisionModel, shape: tuple[int, int, int], classes: int, batches: Sequence[int]
) -> tuple[nn.Module, int | None]:
    """The network of `config.architecture` without content, and the first size, of the data's own and larger ones, at
    which it runs; None is a size of the data's own that is not square.

    Raises:
        UserError: when torchvision has no such network, or it cannot train on such images.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if config.architecture not in known:
        raise UserError(
            f"model.architecture={config.architecture}: must be a classification network of torchvision"
            f"{closest(config.architecture, known)}, one of {', '.join(known)}"
        )
    problem: str | None = None
    network: nn.Module | None = None
    for size in dict.fromkeys((_own_size(shape), *(s for s in _RESIZES if s > min(shape[1:])))):
        try:
            if network is None or config.architecture.startswith(_BUILT_FOR_A_SIZE):
                with torch.device("meta"), _Outline():
                    network = _fitted(config.architecture, shape[0], classes, size)
        except (ValueError, RuntimeError, AssertionError) as error:
            problem = str(error)
            continue
        problem = training_problem(network, (shape[0], size or shape[1], size or shape[2]), batches)
        if problem is None:
            return network, size
    raise UserError(
        f"model.architecture={config.architecture}: cannot train on images of {size_text(shape)}: {problem}"
    )


def torchvision_network(
    config: TorchvisionModel, shape: tuple[int, int, int], classes: int, size: int | None
) -> nn.Module:
    """The network that `torchvision_outline` is the outline of, at the size that it gave."""
    network = _fitted(config.architecture, shape[0], classes, size)
    return network if size == _own_size(shape) else Resized(network, size or 0)


def _own_size(shape: tuple[int, int, int]) -> int | None:
    return shape[1] if shape[1] == shape[2] else None


def _fitted(architecture: str, channels: int, classes: int, size: int | None) -> nn.Module:
    network = _network(architecture, classes, size)
    _adapt_channels(network, channels)
    return network


def _network(architecture: str, classes: int, size: int | None) -> nn.Module:
    """The network with the auxiliary heads left out that some have, for images of `size` pixels where that matters."""
    import torchvision

    build: Callable[..., Any] = torchvision.models.get_model_builder(architecture)
    wanted: dict[str, Any] = {"weights": None, "num_classes": classes}
    if architecture in ("googlenet", "inception_v3"):
        wanted |= {"aux_logits": False, "init_weights": True}
    if size is not None and architecture.startswith(_BUILT_FOR_A_SIZE):
        wanted |= {"image_size": size} if architecture.startswith("vit_") else {"input_size": (size, size)}
    model: nn.Module = build(**wanted)
    return model


def _adapt_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution when the images do not have the three channels that it expects."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                kept: dict[str, Any] = {key: getattr(module, key) for key in ("kernel_size", "stride", "padding")}
                first = nn.Conv2d(channels, module.out_channels, bias=module.bias is not None, **kept)
                network.set_submodule(name, first)
            return


def training_problem(model: nn.Module, shape: tuple[int, int, int], batches: Sequence[int]) -> str | None:
    """What torch says against a training pass over such batches; shapes are traced, nothing is computed."""
    traced = copy.deepcopy(model).to("meta").train()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in batches:
                traced(torch.empty(batch, *shape, device="meta"))
    except (ValueError, RuntimeError, AssertionError) as error:
        text = str(error).strip().splitlines()[0]
        return f"a batch of {batch} gives: {text}"
    return None
