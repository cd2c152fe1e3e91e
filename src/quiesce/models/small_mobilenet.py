"""A MobileNetV2 that is small enough to learn digits in seconds on a laptop.

It has the parts of the full network: a convolution, inverted residual blocks (1 × 1 expand, 3 × 3
depth-wise, 1 × 1 project without activation), a 1 × 1 head, average pooling, a classifier.
Oscillation does most harm in depth-wise layers, which have few weights per channel.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018,
arXiv:1801.04381.
"""

from torch import Tensor, nn

STEM = 16  # channels
BLOCKS = ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1))  # channels, stride
EXPANSION = 4
HEAD = 128  # channels


class InvertedResidual(nn.Module):
    """Expands, filters each channel, projects, and adds the input if the shapes are equal."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * EXPANSION
        self.expand = _convolution(channels_in, inner, 1)
        self.depthwise = _convolution(inner, inner, 3, stride=stride, groups=inner)
        self.project = _convolution(inner, channels_out, 1, activation=False)
        self.has_residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, channels_out, height', width')."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_residual else y


class SmallMobileNetV2(nn.Module):
    """A network with about 42,000 weights in 20 convolutions, 6 of them depth-wise.

    Args:
        channels: Channels of the images; 1 for digits.
        num_classes: Number of classes.
    """

    def __init__(self, channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = _convolution(channels, STEM, 3, stride=2)
        inputs = (STEM, *(width for width, _ in BLOCKS))
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(width_in, width, stride)
                for width_in, (width, stride) in zip(inputs, BLOCKS, strict=False)
            )
        )
        self.head = _convolution(inputs[-1], HEAD, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, channels, height, width) to logits (batch, num_classes)."""
        y = self.pool(self.head(self.blocks(self.stem(x))))
        return self.classifier(y.flatten(1))


def _convolution(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(
            channels_in,
            channels_out,
            kernel,
            stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(channels_out),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if activation else nn.Sequential(*layers)
