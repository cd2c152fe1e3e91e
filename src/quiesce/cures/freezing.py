"""Iterative weight freezing: a weight that oscillates too often is pinned to one code for good.

Where a weight's frequency is above the threshold, its code becomes the rounded average of its
codes: of the two it oscillates between, the one where it was more often, and the one whose value
is nearer to the optimum. From the next forward on the quantizer emits that code whatever the
latent is (so its gradient is 0, and the scale's is right), and after every step the latent is set
to scale * code, so that momentum, weight decay, stripping and export can not lose it.

Source: Nagel et al., ICML 2022, arXiv:2203.11086, algorithm 1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from quiesce.arithmetic import weight_passes
from quiesce.arithmetic.grid import check_bits
from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.frozen_limit import FrozenLimit
from quiesce.errors import TrackingError
from quiesce.oscillation.arena import Arena, Where
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike

_SLACK = 1 + 1e-6  # on the decay, for the rounding of two products


class Freezing(Cure):
    """Pins the codes of weights that oscillate more often than the threshold.

    Args:
        threshold: A frequency above 0, or a schedule of the optimizer step that may give None for
            "off"; a schedule's 0 is off too, and so is all that comes before `begin` of
            `quiesce.cosine` and `quiesce.linear`. A single oscillation already gives the tracker's
            momentum, so thresholds of two or three times that or more are of use.
        average: "code" pins to the rounded average of codes before this step, None to the code
            of this step.
        max_bits: Only weights of at most so many bits are frozen.
        max_frozen: Largest share of the weights of a layer that may come to be frozen, above 0 and
            below 1; beyond it training stops with a `FreezingError`. None: no limit.

    Raises:
        ValueError: A constant threshold outside (0, 1], or an argument out of its range.
    """

    def __init__(
        self,
        threshold: float | ScheduleLike,
        average: Literal["code"] | None = "code",
        max_bits: int = 4,
        max_frozen: float | None = 0.6,
    ) -> None:
        if not callable(threshold) and not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
        if average not in ("code", None):
            raise ValueError(f'average must be "code" or None, got {average!r}')
        check_bits("max_bits", max_bits)
        if max_frozen is not None and not 0 < max_frozen < 1:
            raise ValueError(
                f"max_frozen must be above 0 and below 1, or None for no limit, got {max_frozen}"
            )
        self.threshold = as_schedule(threshold)
        self.average = average
        self.max_bits = max_bits
        self.max_frozen = max_frozen
        self._limit = FrozenLimit(max_frozen)
        self._names: set[str] = set()
        self._tracker: OscillationTracker | None = None
        self._last: tuple[int, float] | None = None

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Take the weights of at most `max_bits`; have the tracker follow their averages."""
        chosen = [weight for weight in weights if weight.grid.bits <= self.max_bits]
        self._names = {weight.name for weight in chosen}
        self._tracker, self._last = tracker, None
        self._limit.attach([home for home in tracker.arenas if any(self._allowed(home))])
        if self.average == "code":
            tracker.follow_average(chosen)

    def penalty(self, step: int) -> None:
        """None: freezing adds nothing to the loss."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Freeze what has come above this step's threshold.

        Raises:
            TrackingError: The cure belongs to no `Control` yet.
            ValueError: The schedule gives a threshold outside [0, 1].
            FreezingError: More of a layer would be frozen than `max_frozen`; on a CPU it is not
                frozen then.
        """
        tracker = self._tracker
        if tracker is None:
            raise TrackingError("this cure has no weights; pass it to quiesce.Control first")
        if threshold := self._threshold_at(step):
            last = self._last
            fresh_only = self._none_fell_in(tracker, threshold)
            anew = last is None or last[0] != tracker.steps - 1
            self._limit.catch_up(step, threshold, anew=anew)
            homes = [home for home in tracker.arenas if any(self._allowed(home))]
            for chosen in tracker.above(homes, threshold, fresh_only=fresh_only):
                self._freeze(tracker, step, threshold, *chosen)

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

    def _none_fell_in(self, tracker: OscillationTracker, threshold: float) -> bool:
        """Whether only weights that oscillated just now can be new above the threshold."""
        last, self._last = self._last, (tracker.steps, threshold)
        if last is None or last[0] != tracker.steps - 1:
            return False
        return threshold >= last[1] * tracker.decay * _SLACK

    def _allowed(self, home: Arena) -> list[bool]:
        """Which layers of an arena may be frozen."""
        return [weight.name in self._names for weight in home.weights]

    def _freeze(
        self,
        tracker: OscillationTracker,
        step: int,
        threshold: float,
        home: Arena,
        where: Where,
        above: Tensor,
    ) -> None:
        allowed = self._allowed(home)
        if home.on_cpu:  # an accelerator would wait for the count of an index
            hits = above.nonzero().squeeze(1)
            where = hits if isinstance(where, slice) else where[hits]
            if not all(allowed):
                where = where[torch.tensor(allowed)[home.layers_of(where)]]
            if not len(where):
                return
            self._limit.admit(home, where, step, threshold)
        elif not all(allowed):
            above &= (home.per_row(allowed) > 0).expand_as(home.latents).reshape(-1)
        now = home.read()
        if self.average == "code":
            codes = torch.round(tracker.average_before(home, where))
            codes = codes.clamp(home.grid.quant_min, home.grid.quant_max)
        else:
            codes = weight_passes.emitted(home.select(now, where))
        home.freeze(now, above if isinstance(where, slice) else where, codes)
