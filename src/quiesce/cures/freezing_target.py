"""Freezing of as few weights as a target for the oscillating share requires.

At a check, r steps before the end, the weights above the cut 0.005 are of three kinds:

- frozen, and too high to fall below the cut in r steps: they count at the end;
- free, and too high for that: they count at the end whether they are frozen now or not, so they are
  left alone;
- free, and low enough: those with the highest frequencies are frozen, until no more than the
  allowed count remains, less the first two kinds and a reserve.

The reserve is the number of weights that will start to oscillate when it is too late: as many as
did so between the past checks, in the time in which a new oscillation cannot be forgotten any more.

If the reserve alone is more than what is allowed, freezing all that oscillate is not enough: the
weights that will oscillate must be frozen before they do. They are most likely those that have
oscillated before, so the threshold then falls below the cut, by the ratio of what is expected at
the end to what is allowed, and rises again when less is expected. It is clamped to the frequencies
that are counted, so it cannot wind up.

Weights are frozen at checks only. In between, a threshold would go on freezing whatever rises above
it, although others may have fallen below the cut meanwhile.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quiesce.cures.freezer import Freezer
from quiesce.cures.share_target import ShareTarget
from quiesce.errors import FreezingError
from quiesce.oscillation.frequency_counts import (
    CUT,
    EDGES,
    LOWEST,
    FrequencyCounts,
    frequency_counts,
)
from quiesce.oscillation.momentum import steps_of_one
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight

_NEWEST = 0.25
"""Weight of the newest check in the average of how many weights start to oscillate."""

_GAIN, _LARGEST_ERROR = 0.5, 2.0
"""Of the controller that moves the threshold below the cut."""


class FreezingTarget:
    """Sets the thresholds of a `Freezer` so that the oscillating share falls to a target.

    Args:
        target: Share of oscillating weights at the end, above 0 and below 1.
        max_frozen: Largest frozen fraction of a layer, or None. Where a layer is at its limit, more
            weights of other layers are frozen instead.

    Raises:
        ValueError: `target` is out of range.
    """

    def __init__(self, target: float, max_frozen: float | None) -> None:
        self._share = ShareTarget(target)
        self._most = 1.0 if max_frozen is None else max_frozen
        self.threshold: float | None = None
        """The threshold of the last check; None if it froze nothing."""
        self._left: int | None = None
        self._starting = 0.0
        self._floor = OSCILLATING

    def attach(self, freezer: Freezer, tracker: OscillationTracker, total: int | None) -> None:
        """Plan the training; see `ShareTarget.attach`.

        Raises:
            TrackingError: No weight may be frozen, or as `ShareTarget.attach`.
        """
        freezer.refuse_none("Freezing(target=...)")
        self._share.attach(tracker, total, "Freezing")
        self.threshold, self._left = None, None
        self._starting, self._floor = 0.0, OSCILLATING

    def steer(self, freezer: Freezer, step: int) -> None:
        """Measure, and freeze what is too much, if a check is due after this step.

        Raises:
            FreezingError: The share cannot be reached within `max_frozen`.
        """
        share, tracker = self._share, freezer.tracker
        if not share.due(step):
            return
        counts = frequency_counts(tracker, freezer.names)
        allowed = share.allowed(step, counts.share)
        left = share.remaining(step)
        plan = _Plan(counts, self._top(tracker, left), self._rooms(counts, freezer.free))
        self._follow(plan.free)
        most = math.floor(allowed * plan.weights)
        reserve = self._starting * min(left, self._late(tracker))
        if plan.least > most:
            raise FreezingError(self._unreachable(plan, step))
        self._move_floor(plan.least + plan.lasting + reserve, most)
        bin_ = plan.find(most - plan.lasting - reserve)
        if bin_ is None:
            bin_ = max(0, int(torch.searchsorted(EDGES, self._floor, right=True)) - 1)
        levels = plan.levels(bin_)
        self.threshold = EDGES[bin_].item() if levels.chosen else None
        if levels.chosen:
            freezer.freeze_above(levels.thresholds, up_to=EDGES[plan.top].item())
        self._left = plan.free - plan.oscillating(bin_)
        frozen = counts.frozen_share + levels.chosen / plan.weights
        share.record(step, counts.share, frozen, self.threshold)

    def report(self) -> dict[str, Any]:
        """Return what `ShareTarget.report` does."""
        return self._share.report("threshold")

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept between checks."""
        return {
            "share": self._share.state_dict(),
            "threshold": self.threshold,
            "left": self._left,
            "starting": self._starting,
            "floor": self._floor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self._share.load_state_dict(state["share"])
        self.threshold, self._left = state["threshold"], state["left"]
        self._starting, self._floor = state["starting"], state["floor"]

    def _move_floor(self, expected: float, allowed: float) -> None:
        """Lower the threshold below the cut if more is expected than allowed, else raise it."""
        error = math.log(max(1.0, expected) / max(1.0, allowed))
        error = max(-_LARGEST_ERROR, min(_LARGEST_ERROR, error))
        floor = self._floor * math.exp(-_GAIN * error)
        self._floor = min(OSCILLATING, max(LOWEST, floor))

    def _follow(self, free: int) -> None:
        """Update how many weights per step start to oscillate, less those that stop."""
        if self._left is not None:
            new = max(0, free - self._left) / self._share.every
            self._starting += _NEWEST * (new - self._starting)

    def _late(self, tracker: OscillationTracker) -> float:
        """Return the last steps in which freezing no longer helps against a new oscillation."""
        return max(self._share.every, steps_of_one(tracker.momentum, OSCILLATING))

    def _top(self, tracker: OscillationTracker, left: int) -> int:
        """Return the bin from which on a frequency does not fall below the cut until the end."""
        highest = math.log(OSCILLATING) - left * math.log(tracker.decay)
        if highest >= 0:
            return len(EDGES) - 1
        return max(CUT, int(torch.searchsorted(EDGES, math.exp(highest), right=True)) - 1)

    def _rooms(self, counts: FrequencyCounts, free: Sequence[QuantizedWeight]) -> Tensor:
        """Return how many more weights of each layer may be frozen: int64 (layers,)."""
        allowed = {weight.name for weight in free}
        rooms = (self._most * counts.sizes).floor().long() - counts.frozen
        return rooms.clamp_min(0) * torch.tensor([name in allowed for name in counts.names])

    def _unreachable(self, plan: "_Plan", step: int) -> str:
        layer, share = plan.fullest, math.ceil(1000 * plan.least / plan.weights) / 1000
        return (
            f"a share of {self._share.target:g} oscillating weights cannot be reached without "
            f"freezing more than {100 * self._most:.3g} % of the layer {layer!r} (step {step}): "
            f"a target of {share:g} can, or allow more with max_frozen (None: all)"
        )


class _Levels(NamedTuple):
    thresholds: dict[str, float]
    """Threshold of each layer with weights to freeze."""
    chosen: int
    """Number of weights to freeze."""


class _Plan:
    """What freezing above a bin would leave.

    Args:
        counts: Weights by frequency.
        top: Weights in this bin and above are left alone.
        rooms: How many more weights of each layer may be frozen.
    """

    def __init__(self, counts: FrequencyCounts, top: int, rooms: Tensor) -> None:
        self.top = top
        self.weights = int(counts.sizes.sum())
        self.free = int(counts.free[:, CUT:].sum())
        self.lasting = int(counts.free[:, top:].sum() + counts.pinned[:, top:].sum())
        self._names = counts.names
        low = counts.free[:, :top]
        self._low = int(low[:, CUT:].sum())
        # above[l, i]: weights of layer l to freeze for a threshold at edge i
        above = low.flip(1).cumsum(1).flip(1)
        self._above = torch.cat([above, above.new_zeros(len(low), 1)], 1)
        self._lowest = (self._above > rooms[:, None]).sum(1)  # they fall along each row
        self._excess = (self._above[:, CUT] - rooms).clamp_min(0)
        bins = torch.arange(top + 1).expand_as(self._above)
        bins = torch.maximum(bins, self._lowest[:, None])
        self._taken = self._above.gather(1, bins).sum(0)

    @property
    def least(self) -> int:
        """Number of low oscillating weights that remain if as many as possible are frozen."""
        return self._low - int(self._taken[CUT])

    @property
    def fullest(self) -> str:
        """The layer with most weights that may not be frozen any more."""
        return self._names[int(self._excess.argmax())]

    def find(self, most: float) -> int | None:
        """Return the highest bin with at most `most` low oscillating weights left, or None."""
        fits = (self._low - self._taken[CUT:] <= most).nonzero()
        return CUT + int(fits[-1]) if len(fits) else None

    def oscillating(self, bin_: int) -> int:
        """Return how many of the weights that freezing above a bin freezes oscillate."""
        return int(self._taken[max(bin_, CUT)])

    def levels(self, bin_: int) -> _Levels:
        """Return the thresholds of the layers for a bin, higher where a layer has no more room."""
        thresholds = {
            name: EDGES[max(bin_, low)].item()
            for name, low, above in zip(
                self._names, self._lowest.tolist(), self._above, strict=True
            )
            if above[max(bin_, low)]
        }
        return _Levels(thresholds, int(self._taken[bin_]))
