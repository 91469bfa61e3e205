"""Networks for image classification, fitted to the data's channels, size and number of classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import (
    CifarResNetModel,
    ModelConfig,
    SmallCnnModel,
    TorchvisionModel,
    closest,
)
from harness.errors import UserError

# Image sizes to try, in pixels, for torchvision networks that do not run at the data's own size.
_RESIZES = (32, 64, 96, 128, 224, 299)
_BUILT_FOR_A_SIZE = ("vit_", "maxvit")


def build_model(config: ModelConfig, shape: tuple[int, int, int], classes: int, batches: Sequence[int]) -> nn.Module:
    """The network for images of `shape` (channels, height, width), giving logits (batch, classes).

    `batches` are the sizes of training batches that it must be able to take; batch norm, for one, may refuse a
    single image. Weights are drawn from torch's global generator: seed it first.

    Raises:
        UserError: when the network does not exist or cannot train on such images.
    """
    if isinstance(config, TorchvisionModel):
        model = _torchvision(config, shape, classes, batches)
    elif isinstance(config, SmallCnnModel):
        _check_pooling(config, shape)
        model = SmallCnn(config.channels, config.dropout, shape, classes)
    elif isinstance(config, CifarResNetModel):
        model = CifarResNet(config.depth, shape[0], classes)
    else:
        model = _resnet18(shape[0], classes)
    if (problem := _problem(model, shape, batches)) is not None:
        raise UserError(f"model.name={config.name}: cannot train on images of {_size(shape)}: {problem}")
    return model


class SmallCnn(nn.Module):
    """Blocks of 3x3 convolution, batch norm, 2x2 max pooling and ReLU, then one linear layer on the last map."""

    def __init__(self, channels: Sequence[int], dropout: float, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        widths = [shape[0], *channels]
        self.blocks = nn.Sequential(*(_Block(i, o) for i, o in pairwise(widths)))
        pixels = (shape[1] >> len(channels)) * (shape[2] >> len(channels))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1] * pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, channels, height, width)."""
        logits: Tensor = self.head(self.dropout(self.blocks(images).flatten(1)))
        return logits


class _Block(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            # The larger value stays the larger under ReLU: pooling first gives the same bits for less work.
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )


class CifarResNet(nn.Module):
    """The 6n+2 layer ResNet for 32x32 images of He et al. (2016), section 4.2, with identity shortcuts padded
    by zero channels (their option A)."""

    def __init__(self, depth: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        width_in = 16
        for stage, width in enumerate((16, 32, 64)):
            for position in range((depth - 2) // 6):
                layers.append(_Residual(width_in, width, stride=2 if stage and not position else 1))
                width_in = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, channels, height, width)."""
        logits: Tensor = self.head(self.layers(self.stem(images)).mean((2, 3)))
        return logits


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, channels_out - channels_in
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride > 1 or self.extra:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(self.body(x).add_(shortcut), inplace=True)


def _resnet18(channels: int, classes: int) -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


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


def _torchvision(
    config: TorchvisionModel, shape: tuple[int, int, int], classes: int, batches: Sequence[int]
) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if config.architecture not in known:
        raise UserError(
            f"model.architecture={config.architecture}: must be a classification network of torchvision"
            f"{closest(config.architecture, known)}, one of {', '.join(known)}"
        )
    problem: str | None = None
    network: nn.Module | None = None
    own = shape[1] if shape[1] == shape[2] else None
    for size in dict.fromkeys((own, *(s for s in _RESIZES if s > min(shape[1:])))):
        try:
            if network is None or config.architecture.startswith(_BUILT_FOR_A_SIZE):
                network = _network(config.architecture, classes, size)
                _adapt_channels(network, shape[0])
        except (ValueError, RuntimeError, AssertionError) as error:
            problem = str(error)
            continue
        problem = _problem(network, (shape[0], size or shape[1], size or shape[2]), batches)
        if problem is None:
            return network if size == own else Resized(network, size or 0)
    raise UserError(f"model.architecture={config.architecture}: cannot train on images of {_size(shape)}: {problem}")


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
                first = nn.Conv2d(
                    channels,
                    module.out_channels,
                    kernel_size=module.kernel_size,  # type: ignore[arg-type]
                    stride=module.stride,  # type: ignore[arg-type]
                    padding=module.padding,  # type: ignore[arg-type]
                    bias=module.bias is not None,
                )
                network.set_submodule(name, first)
            return


def _check_pooling(config: SmallCnnModel, shape: tuple[int, int, int]) -> None:
    side = min(shape[1:])
    if side >> len(config.channels) < 1:
        most = side.bit_length() - 1
        raise UserError(
            f"model.channels={config.channels}: each block halves the image and {_size(shape)} can be halved "
            f"{most} times; must have at most {most} entries"
        )


def _problem(model: nn.Module, shape: tuple[int, int, int], batches: Sequence[int]) -> str | None:
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


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
