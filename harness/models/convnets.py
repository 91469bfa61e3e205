"""Networks of this harness's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import SmallCnnModel
from harness.errors import UserError, plural


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


class ResNet9(nn.Module):
    """The ResNet-9 of Page's cifar10-fast ("How to train your ResNet", 2018): three halvings, so images of 8 pixels or
    more. Weights begin as torch draws them."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, 64), _Block(64, 128), _Added(128), _Block(128, 256), _Block(256, 512), _Added(512)
        )
        self.head = nn.Linear(512, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, channels, height, width)."""
        # The largest of each map, as an adaptive max pooling, whose gradient CUDA would sum in any order.
        largest = self.layers(images).amax((2, 3))
        logits: Tensor = self.head(largest) * 0.125
        return logits


class _Added(nn.Module):
    """Two convolutions whose output is added to what they were given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.body(x)
        return added


def _conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def resnet18_for_small_images(channels: int, classes: int) -> nn.Module:
    """torchvision's ResNet-18 with a stem of one 3x3 convolution and no pooling in it."""
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def check_pooling(config: SmallCnnModel, shape: tuple[int, int, int]) -> None:
    """Refuse more blocks than the images can be halved.

    Raises:
        UserError: naming the setting and the most that it may hold.
    """
    side = min(shape[1:])
    if side >> len(config.channels) < 1:
        most = side.bit_length() - 1
        raise UserError(
            f"model.channels={config.channels}: each block halves the image and {size_text(shape)} can be halved "
            f"{most} times; must have at most {most} entries"
        )


def size_text(shape: tuple[int, int, int]) -> str:
    """`8x8 with 1 channel`, from (channels, height, width)."""
    return f"{shape[1]}x{shape[2]} with {plural(shape[0], 'channel')}"
