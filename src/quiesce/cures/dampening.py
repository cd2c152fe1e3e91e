"""Oscillation dampening: a pull of every latent weight toward the middle of its bin.

    penalty = strength * sum over weights of (q - clip(w, s*n, s*p))^2

with the quantized weight q held constant, so that the gradient is 2*strength*(w - q) inside the
range and 0 outside, and none goes to the scale. Strong enough, it holds a weight on one side of
its threshold; from the first step on it would also hold weights that should still move, which is
why the published recipes raise it from 0 along a cosine.

Source: Nagel et al., ICML 2022, arXiv:2203.11086, section 4.1. "kernel_mean" is what the published
recipes sum: all output channels, the mean within each.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from quiesce.arithmetic import weight_passes
from quiesce.cures.cure import Cure, as_schedule
from quiesce.errors import TrackingError
from quiesce.oscillation.arena import Arena
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike

Aggregation = Literal["sum", "mean", "kernel_mean"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


class Dampening(Cure):
    """Adds the penalty above to the loss, over all quantized weights.

    Args:
        strength: A number, or a schedule of the optimizer step. Its scale depends on
            `aggregation`. 0 or None adds nothing; below 0 the pull becomes a push.
        aggregation: Over one layer: "sum", "mean", or "kernel_mean" (sum over dimension 0, mean
            over the others). Layers are summed.

    Raises:
        ValueError: `aggregation` is none of these.
    """

    def __init__(self, strength: float | ScheduleLike, aggregation: Aggregation = "sum") -> None:
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {AGGREGATIONS}, got {aggregation!r}")
        self.strength = as_schedule(strength)
        self.aggregation: Aggregation = aggregation
        self._homes: list[Arena] = []
        self._factors: list[Tensor] = []
        self._ready = False

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Take all weights, where the tracker has put them."""
        mine = {weight.name for weight in weights}
        self._homes = tracker.arenas
        self._factors = [
            home.per_row(
                [_factor(w.latent, self.aggregation) * (w.name in mine) for w in home.weights]
            )
            for home in self._homes
        ]

    def penalty(self, step: int) -> Tensor | None:
        """The penalty at this step's strength: a scalar, or None where that is 0.

        Where weights are split over processes, that of the part held here.

        Raises:
            TrackingError: The cure belongs to no `Control` yet.
        """
        if not self._homes:
            raise TrackingError("this cure has no weights; pass it to quiesce.Control first")
        strength = self.strength(step)
        if not strength and self._ready:
            return None
        self._ready = True  # the first call runs in any case: compiled passes are then at hand
        latents = [weight.differentiable for home in self._homes for weight in home.weights]
        return _Pull.apply(self._homes, self._factors, strength or 0.0, *latents)  # pyright: ignore

    def after_step(self, step: int) -> None:
        """Nothing: dampening acts through the loss alone."""


def _factor(latent: Tensor, aggregation: Aggregation) -> float:
    if aggregation == "sum":
        return 1.0
    return 1.0 / (latent.numel() if aggregation == "mean" else latent.shape[1:].numel())


class _Pull(torch.autograd.Function):
    """strength * sum of factor * residual^2; the backward finds the residuals again."""

    @staticmethod
    def forward(
        ctx: Any, homes: list[Arena], factors: list[Tensor], strength: float, *latents: Tensor
    ) -> Tensor:
        ctx.homes, ctx.factors, ctx.strength = homes, factors, strength
        ctx.save_for_backward(*latents)
        ctx.read = [home.read() for home in homes]
        pulls = [
            home.run(weight_passes.pull, now, factor)
            for home, now, factor in zip(homes, ctx.read, factors, strict=True)
        ]
        return torch.stack(pulls).sum() * strength

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # the saved latents are the parameters themselves: unpacked only so that autograd refuses a
        # backward after they were changed in place
        _ = ctx.saved_tensors
        upstream = grads[0] * ctx.strength
        pulls = []
        for home, now, factor in zip(ctx.homes, ctx.read, ctx.factors, strict=True):
            gradient = home.run(weight_passes.pull_gradient, now, factor, upstream)
            pulls += [home.layer(gradient, i) for i in range(len(home.weights))]
        return None, None, None, *pulls
