"""Networks for image classification, fitted to the data's channels, size and number of classes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from harness.config import CifarResNetModel, ModelConfig, ResNet9Model, ResNet18Model, SmallCnnModel, TorchvisionModel
from harness.errors import UserError, plural, shown
from harness.machine import free_memory
from harness.models.convnets import CifarResNet, ResNet9, SmallCnn, check_pooling, resnet18_for_small_images, size_text
from harness.models.fitted import torchvision_network, torchvision_outline, training_problem


def build_model(config: ModelConfig, shape: tuple[int, int, int], classes: int, batches: Sequence[int]) -> nn.Module:
    """The network for images of `shape` (channels, height, width), giving logits (batch, classes).

    `batches` are the sizes of training batches that it must be able to take; batch norm, for one, may refuse a
    single image. Weights are drawn from torch's global generator: seed it first.

    Raises:
        UserError: when the network does not exist, has no room in memory, or cannot train on such images.
    """
    if isinstance(config, TorchvisionModel):
        outline, size = torchvision_outline(config, shape, classes, batches)
        _check_memory(config, classes, outline)
        return _within_memory(config, classes, lambda: torchvision_network(config, shape, classes, size))
    if isinstance(config, SmallCnnModel):
        check_pooling(config, shape)
    if isinstance(config, ResNet18Model):
        importlib.import_module("torchvision.models")  # whose own tensors, if any, are no outlines
    with torch.device("meta"):  # neither takes memory nor draws
        outline = _within_memory(config, classes, lambda: _own(config, shape, classes))
    _check_memory(config, classes, outline)
    if (problem := training_problem(outline, shape, batches)) is not None:
        raise UserError(f"model.name={config.name}: cannot train on images of {size_text(shape)}: {problem}")
    return _own(config, shape, classes)


def _own(
    config: SmallCnnModel | CifarResNetModel | ResNet18Model | ResNet9Model, shape: tuple[int, int, int], classes: int
) -> nn.Module:
    if isinstance(config, SmallCnnModel):
        return SmallCnn(config.channels, config.dropout, shape, classes)
    if isinstance(config, CifarResNetModel):
        return CifarResNet(config.depth, shape[0], classes)
    if isinstance(config, ResNet9Model):
        return ResNet9(shape[0], classes)
    return resnet18_for_small_images(shape[0], classes)


def _within_memory(config: ModelConfig, classes: int, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        if isinstance(error, RuntimeError | TypeError) and not re.search("allocate memory|overflow", str(error)):
            raise  # no words of torch's for too large a number
        raise UserError(f"{_size_settings(config, classes)}: must be a network that memory has room for") from error


def _check_memory(config: ModelConfig, classes: int, outline: nn.Module) -> None:
    """Linux promises more memory than there is, and ends the process that uses it."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in outline.state_dict().values())
    if 2 * weights > (free := free_memory()):
        raise UserError(
            f"{_size_settings(config, classes)}: weights and gradients need {2 * weights / 1e9:,.1f} GB of memory, and "
            f"{free / 1e9:,.1f} GB are free; must be a smaller network"
        )


def _size_settings(config: ModelConfig, classes: int) -> str:
    settings = {key: value for key, value in config.plain().items() if key not in ("name", "dropout")}
    texts = [f"model.{key}={shown(value)}" for key, value in (settings or {"name": config.name}).items()]
    return f"{', '.join(texts)} with {plural(classes, 'class', 'classes')}"
