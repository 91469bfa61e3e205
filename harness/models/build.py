"""Networks for image classification, fitted to the data's channels, size and number of classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from harness.config import CifarResNetModel, ModelConfig, SmallCnnModel, TorchvisionModel
from harness.errors import UserError
from harness.models.convnets import CifarResNet, SmallCnn, check_pooling, resnet18_for_small_images, size_text
from harness.models.fitted import torchvision_network, training_problem


def build_model(config: ModelConfig, shape: tuple[int, int, int], classes: int, batches: Sequence[int]) -> nn.Module:
    """The network for images of `shape` (channels, height, width), giving logits (batch, classes).

    `batches` are the sizes of training batches that it must be able to take; batch norm, for one, may refuse a
    single image. Weights are drawn from torch's global generator: seed it first.

    Raises:
        UserError: when the network does not exist or cannot train on such images.
    """
    if isinstance(config, TorchvisionModel):
        model = torchvision_network(config, shape, classes, batches)
    elif isinstance(config, SmallCnnModel):
        check_pooling(config, shape)
        model = SmallCnn(config.channels, config.dropout, shape, classes)
    elif isinstance(config, CifarResNetModel):
        model = CifarResNet(config.depth, shape[0], classes)
    else:
        model = resnet18_for_small_images(shape[0], classes)
    if (problem := training_problem(model, shape, batches)) is not None:
        raise UserError(f"model.name={config.name}: cannot train on images of {size_text(shape)}: {problem}")
    return model
