"""Oscillation dampening: a penalty that pulls every latent weight toward the middle of its bin.

    penalty = strength * sum over weights of (q - clip(w, s*n, s*p))^2

The quantized weight q is treated as a constant, so the gradient is 2*strength*(w - q) inside the
range and 0 outside, and the scale gets no gradient. A strong penalty keeps a weight on one side of
its rounding threshold. Early in training it would also hold weights that still need to move, so the
published recipes increase the strength from 0 along a cosine.

Source: Nagel et al., ICML 2022, arXiv:2203.11086, section 4.1. The published recipes use
"kernel_mean": the mean within each output channel, summed over channels.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from quiesce.arithmetic import weight_passes
from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.dampening_target import DampeningTarget
from quiesce.cures.selection import Selection
from quiesce.cures.weight_penalty import on_weights
from quiesce.errors import TrackingError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.oscillation.weight_blocks import Block
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike

Aggregation = Literal["sum", "mean", "kernel_mean"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


class Dampening(Cure):
    """Adds the penalty above to the loss, over all quantized weights.

    Args:
        strength: A number, or a schedule of the optimizer step. Useful values depend on
            `aggregation`. 0 or None adds nothing; a negative strength pushes weights away. Omitted
            with a `target`.
        aggregation: Reduction over one layer: "sum", "mean", or "kernel_mean" (sum over dimension
            0, mean over the others). Layers are summed.
        target: Share of oscillating weights at the end of the training, above 0 and below 1, among
            the weights with at most `max_bits`. The cure then sets the strength itself, about every
            hundred steps. `Control` must be given the number of steps. Without a momentum of its
            own, the tracker gets `momentum_for(total)`.
        max_bits: Weights with more bits do not count for the target.

    Raises:
        ValueError: Not exactly one of strength and target; or an argument is out of its range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.Dampening(1e-3)])
        >>> loss = layer(x).sum() + control.penalty()
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        strength: float | ScheduleLike | None = None,
        aggregation: Aggregation = "sum",
        *,
        target: float | None = None,
        max_bits: int = 4,
    ) -> None:
        if (strength is None) == (target is None):
            raise ValueError(
                "Dampening needs either a strength or a target, the share of weights that may "
                "oscillate at the end; a target sets the strength itself"
            )
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {AGGREGATIONS}, got {aggregation!r}")
        self.strength = as_schedule(0.0 if strength is None else strength)
        self._target = None if target is None else DampeningTarget(target)
        self._selection = Selection(max_bits)
        self.aggregation: Aggregation = aggregation
        self._blocks: list[Block] = []
        self._factors: list[Tensor] = []
        self._weights: list[QuantizedWeight] = []
        self._tracker: OscillationTracker | None = None
        self._ready = False

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select all weights; locked weights add nothing to the penalty.

        Raises:
            TrackingError: There is a target, and no weight has so few bits; or the training has no
                number of steps, or too few.
        """
        self._mine = {weight.name for weight in weights}
        self._weights = [weight for group in tracker.groups for weight in group.weights]
        self._tracker = tracker
        self._weigh(tracker)
        self._selection.attach(weights, tracker)
        if self._target is not None:
            self._selection.refuse_none("Dampening(target=...)")
            factors = [_factor(w.latent, self.aggregation) * w.latent.numel() for w in weights]
            mean = sum(factors) / sum(w.latent.numel() for w in weights)
            self._target.attach(tracker, self.total, mean)

    def penalty(self, step: int) -> Tensor | None:
        """Return the penalty at this step's strength: a scalar, or None if the strength is 0.

        If weights are split over processes, it is the penalty of the part in this process.

        Raises:
            TrackingError: The cure has not been passed to a `Control`.
        """
        if self._tracker is None:
            raise TrackingError("this cure has no weights; pass it to quiesce.Control first")
        if self._locked != [weight.locked for weight in self._weights]:
            self._weigh(self._tracker)
        strength = self.level(step)
        if not strength and self._ready:
            return None
        self._ready = True  # the first call always runs, to compile the passes
        latents = [weight.differentiable for weight in self._weights]
        return on_weights(_Pull(self._blocks, self._factors, strength or 0.0), latents)

    def after_step(self, step: int) -> None:
        """Set the strength of the next steps, if there is a target and a check is due.

        If weights are split over processes, all processes must call this.
        """
        if self._target is not None:
            self._target.steer(self._selection, step)

    def level(self, step: int) -> float | None:
        """Return the strength, with a target that of the last check."""
        if self._target is not None:
            return self._target.strength
        return self.strength(step) or None

    def report(self) -> dict[str, Any]:
        """Return what was done for a target; nothing without one."""
        return {} if self._target is None else self._target.report()

    def state_dict(self) -> dict[str, Any]:
        """Return what a target keeps between steps; nothing without one."""
        return {} if self._target is None else self._target.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        if self._target is not None:
            self._target.load_state_dict(state)

    def _weigh(self, tracker: OscillationTracker) -> None:
        """Compute the row factors of every block; those of locked weights are 0."""
        self._locked = [weight.locked for weight in self._weights]
        self._blocks, self._factors = [], []
        for group in tracker.groups:
            factors = [
                _factor(w.latent, self.aggregation) * (w.name in self._mine and not w.locked)
                for w in group.weights
            ]
            self._blocks += tracker.blocks(group)
            self._factors += [block.per_row(factors) for block in tracker.blocks(group)]


def _factor(latent: Tensor, aggregation: Aggregation) -> float:
    if aggregation == "sum":
        return 1.0
    return 1.0 / (latent.numel() if aggregation == "mean" else latent.shape[1:].numel())


class _Pull(NamedTuple):
    """strength * sum of factor * residual^2; the backward computes the residuals again."""

    blocks: list[Block]
    factors: list[Tensor]
    strength: float

    def value(self) -> Tensor:
        for group in {id(block.group): block.group for block in self.blocks}.values():
            group.refresh()
        pairs = zip(self.blocks, self.factors, strict=True)
        pulls = [block.run(weight_passes.pull, block.read(), factors) for block, factors in pairs]
        return torch.stack(pulls).sum() * self.strength

    def gradient(self, i: int, now: weight_passes.Operands, upstream: Tensor, out: Tensor) -> None:
        upstream = upstream * self.strength
        self.blocks[i].run(weight_passes.pull_gradient, now, self.factors[i], upstream, out)
