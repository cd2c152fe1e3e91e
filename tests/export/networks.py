"""Networks that the tests of export share, calibrated, with batch norms that do something."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

import quiesce as qs


class Residual(nn.Module):
    """Expand, depth-wise, project, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU6(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def mobile() -> nn.Sequential:
    """A stem, an inverted residual, a grouped convolution with a bias, a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def shaken(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and an affine map of its own, signs of both kinds."""
    generator = torch.Generator().manual_seed(2)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            size = norm.running_mean.shape
            norm.running_mean.copy_(torch.randn(size, generator=generator) / 4)
            norm.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            with torch.no_grad():
                norm.weight.copy_(torch.randn(size, generator=generator).sign() * 0.5 + 1)
                norm.weight.mul_(torch.rand(size, generator=generator) + 0.5)
                norm.weight[::3].neg_()
                norm.bias.copy_(torch.randn(size, generator=generator) / 3)
    return model


def calibrated(model: nn.Module, batch: Tensor | None = None, **scheme: Any) -> nn.Module:
    """`model`, shaken, prepared and calibrated; 3 bits unless `scheme` says otherwise."""
    batch = images() if batch is None else batch
    bits: dict[str, Any] = {"weight_bits": 3, "act_bits": 3}
    qs.prepare(shaken(model), qs.Scheme(**{**bits, **scheme}), batch[:1])
    return qs.calibrate(model, [batch]).eval()
