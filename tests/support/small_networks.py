"""Small prepared networks that the tests share, and a way to walk their weights about."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import quiesce as qs


def weights_only(**changes: Any) -> qs.Scheme:
    """3-bit weights in every layer and float activations, but for `changes`."""
    plain: dict[str, Any] = {"weight_bits": 3, "act_bits": None, "first_last_bits": None}
    return qs.Scheme(**{**plain, **changes})


def one_layer(count: int, bits: int = 3, scale: float = 0.5) -> nn.Linear:
    """A prepared linear layer of `count` weights on a grid of `bits` with this scale."""
    layer = nn.Linear(count, 1, bias=False)
    qs.prepare(layer, weights_only(weight_bits=bits), torch.zeros(1, count))
    layer.weight_quantizer.scale.data.fill_(scale)
    return layer


def small_network() -> nn.Sequential:
    """Convolution, batch norm, depth-wise convolution and a linear head, for (batch, 3, 6, 6)."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


def prepared_network(**changes: Any) -> nn.Sequential:
    """`small_network` with 3-bit weights; calibrated where `changes` asks for activations."""
    model = small_network()
    images = torch.rand(4, 3, 6, 6)
    qs.prepare(model, weights_only(**changes), images)
    qs.calibrate(model, [images])
    return model


class Walk:
    """Optimizer steps that leave the latents where they are told to be.

    Args:
        model: Prepared.
        cures: What acts after each step.
        momentum: The tracker's.
        total: Steps of the whole training, for cures with a target.
        options: More arguments for the tracker.
    """

    def __init__(
        self,
        model: nn.Module,
        cures: Sequence[qs.Cure] = (),
        momentum: float | None = 0.01,
        *,
        total: int | None = None,
        **options: Any,
    ) -> None:
        self.weights = qs.quantized_weights(model)
        self.tracker = qs.OscillationTracker(self.weights, momentum, **options)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        self.control = qs.Control(self.optimizer, self.weights, self.tracker, cures, total=total)

    def to(self, *latents: Tensor) -> None:
        """One optimizer step, after which the latents are these (in any shape of that size)."""
        for weight, latent in zip(self.weights, latents, strict=True):
            weight.latent.data.copy_(latent.reshape(weight.latent.shape))
        self.control.penalty()  # else the control warns that the loss has no penalty
        self.optimizer.step()

    def at_random(self, steps: int, spread: float = 1.5) -> None:
        """Steps to independent normal latents, `spread` codes wide."""
        for _ in range(steps):
            noise = [torch.randn(w.latent.shape) * w.scale * spread for w in self.weights]
            self.to(*noise)
