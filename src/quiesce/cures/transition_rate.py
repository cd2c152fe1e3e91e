"""Transition-rate scheduling: the learning rate of the weights follows a rate of code changes.

    R = factor * sqrt(bits)                 target: share of codes that change in a step
    K = 0.99 K + 0.01 k                     measured, with k the share in this step
    U = max(0, U + eta * (R - K))           learning rate of the weights, first the optimizer's

Oscillation does not depend on the learning rate, so a schedule of learning rates does not stop it.
Here U falls as long as too many codes change, down to 0 if necessary. The published target falls
from factor = 5e-3 to 0 along a cosine. All other parameters keep the optimizer's learning rate. The
scales of these weights do not learn, because codes would change without any change of a latent.

Source: Lee, Jeon, Kim, Ham, Scheduling Weight Transitions for Quantization-Aware Training, ICCV
2025, arXiv:2404.19248.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.learning_rates import LearningRate
from quiesce.cures.selection import Selection
from quiesce.errors import TrackingError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.parallel.split_weights import local
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike


class TRS(Cure):
    """Schedules the transition rate of the weights instead of their learning rate.

    After each step, the update of every latent weight is multiplied so that it is the one at
    learning rate U. This works with every optimizer and any parameter groups. U multiplies the
    whole update, including momentum and weight decay, as a learning rate does. During a step there
    is a copy of the latent weights, 4 bytes each.

    Args:
        factor: lambda, a number or a schedule of the optimizer step, 0 or more; None as the value
            of a schedule disables the cure in this step. Published: `quiesce.cosine(5e-3, 0, total,
            begin=0)`; useful values are 4e-3 to 6e-3.
        eta: Rate of the controller, in units of the initial learning rate: published 1.
        max_bits: Weights with more bits keep their learning rate and their scales.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> trs = qs.TRS(qs.cosine(5e-3, 0, total=1000, begin=0))
        >>> control = qs.Control(optimizer, weights, tracker, [trs])
        >>> layer(x).sum().backward()
        >>> optimizer.step()
    """

    def __init__(self, factor: float | ScheduleLike, eta: float = 1.0, max_bits: int = 4) -> None:
        if not callable(factor) and not 0 <= factor < math.inf:
            raise ValueError(f"factor must be 0 or more, got {factor}")
        if not eta > 0:
            raise ValueError(f"eta must be above 0, got {eta}")
        self.factor = as_schedule(factor)
        self.eta = eta
        self._selection = Selection(max_bits)
        self._level = 1.0
        self._rate = 0.0
        self._on = False  # in this step
        self._scales: list[tuple[Tensor, Tensor]] = []
        self._updates: list[tuple[float, Tensor, Tensor]] = []

    def refuse(self, others: Sequence[Cure]) -> None:
        """Refuse a second cure that sets the learning rate of the weights.

        Raises:
            TrackingError: There is one.
        """
        if any(isinstance(other, TRS) for other in others):
            raise TrackingError("two cures set the learning rate of the weights; keep one TRS")

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the weights with at most `max_bits`.

        Raises:
            TrackingError: There is none.
        """
        self._selection.attach(weights, tracker)
        self._selection.refuse_none("TRS")
        self._level, self._rate, self._on = 1.0, 0.0, False

    @torch.no_grad()
    def before_step(self, step: int, rates: Mapping[str, LearningRate]) -> None:
        """Copy what the step will change: the scales, and the latents unless U is their rate."""
        free = [weight for weight in self._selection.free if weight.name in rates]
        self._on = self.factor(step) is not None
        self._scales, self._updates = [], []
        if not self._on:
            return
        for weight in free:
            for scale in weight.scale_parameters:
                self._scales.append((scale.detach(), scale.detach().clone()))
            ratio = _ratio(rates[weight.name], self._level)
            if ratio != 1:
                latent = local(weight.latent)
                self._updates.append((ratio, latent, latent.clone()))

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Multiply the updates of the latents, and undo those of the scales."""
        for scale, before in self._scales:
            scale.copy_(before)
        for ratio, latent, before in self._updates:
            latent.sub_(before).mul_(ratio).add_(before)
        self._scales, self._updates = [], []

    def after_step(self, step: int) -> None:
        """Compare the transition rate with its target, and set the next learning rate."""
        factor = self.factor(step)
        free = self._selection.free
        if not self._on or factor is None or not free:
            return
        weights = sum(weight.latent.numel() for weight in free)
        root = sum(weight.latent.numel() * weight.grid.bits**0.5 for weight in free) / weights
        self._rate = self._selection.tracker.transition_rate([weight.name for weight in free])
        self._level = max(0.0, self._level + self.eta * (factor * root - self._rate))

    def level(self, step: int) -> float | None:
        """Return the learning rate of the weights, in units of the initial one."""
        return None if self.factor(step) is None else self._level

    def report(self) -> dict[str, Any]:
        """Return the learning rate in units of the initial one, and the transition rate."""
        return {"learning_rate": self._level, "transition_rate": self._rate}

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate in units of the initial one."""
        return {"level": self._level, "rate": self._rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self._level, self._rate = float(state["level"]), float(state["rate"])


def _ratio(rate: LearningRate, level: float) -> float:
    """Return the factor that turns an update at the optimizer's learning rate into one at U."""
    return level * rate.initial / rate.now if rate.now else 1.0
