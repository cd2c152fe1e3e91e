"""Iterative weight freezing: a weight that oscillates too often gets a permanently fixed code.

    for each weight whose frequency is above the threshold of this step:
        code = round(average of its codes)      # or its current code, with average=None
        freeze it

The rounded average is the code that the weight had more often, and whose value is closer to the
optimum. From the next forward pass on, the quantizer outputs the frozen code regardless of the
latent, so the gradient of the latent is 0 and that of the scale is correct. After every step the
tracker sets the latent to scale * code, so momentum, weight decay, `strip` and exports keep it.

Source: Nagel et al., ICML 2022, arXiv:2203.11086, algorithm 1. With a target, the thresholds follow
from it (`quiesce.cures.freezing_target`), which is our own.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.freezer import Freezer
from quiesce.cures.freezing_target import FreezingTarget
from quiesce.cures.frozen_limit import FrozenLimit
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike

_SLACK = 1 + 1e-6
"""Allowance on the decay for the rounding of two products."""


class Freezing(Cure):
    """Freezes the codes of weights that oscillate more often than a threshold.

    Args:
        threshold: A frequency in (0, 1], or a schedule of the optimizer step; omitted with a
            `target`. A schedule disables
            freezing by returning None or 0; `quiesce.cosine` and `quiesce.linear` also disable it
            before their `begin`. One oscillation increases a frequency by the momentum of the
            tracker, so useful thresholds are at least two or three times the momentum.
        average: "code" freezes at the rounded average of the codes before this step, None at the
            code of this step.
        max_bits: Weights with more bits are never frozen.
        max_frozen: Largest fraction of frozen weights in a layer, between 0 and 1. If freezing
            would exceed it, training stops with a `FreezingError`. None: no limit.
        target: Share of oscillating weights at the end of the training, above 0 and below 1, among
            the weights with at most `max_bits`. The cure then sets the threshold itself, about
            every hundred steps, and freezes as few weights as it can. `Control` must be given the
            number of steps. Without a momentum of its own, the tracker gets `momentum_for(total)`.

    Raises:
        ValueError: Not exactly one of threshold and target; a constant threshold outside (0, 1], or
            an argument out of its range.

    Examples:
        >>> freezing = qs.Freezing(qs.cosine(0.1, 0.03, total=1000))
        >>> control = qs.Control(optimizer, weights, tracker, [freezing])
        >>> optimizer.step()
        >>> weights[0].frozen.any().item()
        False
    """

    bytes_per_weight: ClassVar[int] = 4
    """The average of codes, which the tracker keeps; none with average=None."""

    def __init__(
        self,
        threshold: float | ScheduleLike | None = None,
        average: Literal["code"] | None = "code",
        max_bits: int = 4,
        max_frozen: float | None = 0.6,
        *,
        target: float | None = None,
    ) -> None:
        if (threshold is None) == (target is None):
            raise ValueError(
                "Freezing needs either a threshold or a target, the share of weights that may "
                "oscillate at the end; a target sets the threshold itself"
            )
        if threshold is not None and not callable(threshold) and not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
        if average not in ("code", None):
            raise ValueError(f'average must be "code" or None, got {average!r}')
        if max_frozen is not None and not 0 < max_frozen < 1:
            raise ValueError(
                f"max_frozen must be above 0 and below 1, or None for no limit, got {max_frozen}"
            )
        self.threshold = as_schedule(0.0 if threshold is None else threshold)
        self.average = average
        self.max_bits = max_bits
        self.max_frozen = max_frozen
        self._freezer = Freezer(max_bits, averaged=average == "code")
        self._limit = FrozenLimit(max_frozen)
        self._target = None if target is None else FreezingTarget(target, max_frozen)
        self._last: tuple[int, float] | None = None

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the weights with at most `max_bits`; make the tracker follow their averages.

        Raises:
            TrackingError: There is a target, and no such weight, no number of steps, or too few.
        """
        self._freezer.attach(weights, tracker)
        self._limit.attach(self._freezer.groups)
        self._last = None
        if self._target is not None:
            self._target.attach(self._freezer, tracker, self.total)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Freeze the weights whose frequency is above the threshold of this step.

        With a target, all processes that share split weights must call this.

        Raises:
            TrackingError: The cure has not been passed to a `Control`.
            ValueError: The schedule returns a threshold outside [0, 1].
            FreezingError: The frozen fraction of a layer would exceed `max_frozen`. On a CPU these
                weights are then not frozen. With a target: it cannot be reached without that.
        """
        tracker = self._freezer.tracker
        if self._target is not None:
            self._target.steer(self._freezer, step)
            return
        threshold = self._threshold_at(step)
        if not threshold:
            return
        last, self._last = self._last, (tracker.steps, threshold)
        asked_before = last is not None and last[0] == tracker.steps - 1
        fresh_only = (
            last is not None and asked_before and threshold >= last[1] * tracker.decay * _SLACK
        )
        self._limit.catch_up(step, threshold, recount=not asked_before)
        self._freezer.freeze_above(
            threshold,
            fresh_only=fresh_only,
            admit=lambda chosen: self._limit.admit(chosen, step, threshold),
        )

    def level(self, step: int) -> float | None:
        """Return the threshold, with a target that of the last check."""
        if self._target is not None:
            return self._target.threshold
        return self._threshold_at(step) or None

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

    def _threshold_at(self, step: int) -> float | None:
        if step < getattr(self.threshold, "begin_step", 0):
            return None
        threshold = self.threshold(step)
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(
                f"threshold must be above 0 and at most 1, or 0 or None for off, got {threshold} "
                f"at step {step}"
            )
        return threshold
