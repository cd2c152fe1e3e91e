"""The strength of dampening, steered so that the oscillating share reaches a target.

    every `every` steps:    pull <- pull * exp(momentum * every * clip(ln(share/allowed), -2, 2))

The pull is the strength times the mean factor of the aggregation, so its first value and its range
are the same for all of them. Where the share is twice the allowed one, the pull grows by a factor 2
in 1/momentum steps, the memory of the frequencies; a faster controller would swing, because it
would not wait for the effect of its last change.

The integral of the error is the logarithm of the pull itself, which is clamped. It therefore cannot
wind up: as soon as the error changes its sign, the pull leaves the end of its range.
"""

import math
from typing import Any

from quiesce.cures.selection import Selection
from quiesce.cures.share_target import ShareTarget
from quiesce.oscillation.frequency_counts import frequency_counts
from quiesce.oscillation.tracker import OscillationTracker

FIRST = 1e-4
"""Pull at which steering begins: too weak to hold a weight in the networks that we have trained."""

LEAST, MOST = 1e-7, 1.0
"""Range of the pull. At 1, an SGD step at learning rate 0.5 sets a weight to its grid point."""

_LARGEST_ERROR = 2.0


class DampeningTarget:
    """Sets the strength of dampening every hundred steps.

    Args:
        target: Share of oscillating weights at the end, above 0 and below 1.

    Raises:
        ValueError: `target` is out of range.
    """

    def __init__(self, target: float) -> None:
        self._share = ShareTarget(target)
        self._pull: float | None = None
        self._factor = 1.0

    def attach(self, tracker: OscillationTracker, total: int | None, factor: float) -> None:
        """Plan the training; see `ShareTarget.attach`.

        Args:
            tracker: The tracker.
            total: Optimizer steps, or None if they are not known.
            factor: Mean factor of the aggregation over all weights.

        Raises:
            TrackingError: As `ShareTarget.attach`.
        """
        self._share.attach(tracker, total, "Dampening")
        self._pull, self._factor = None, factor

    @property
    def strength(self) -> float | None:
        """The strength now; None before steering begins."""
        return None if self._pull is None else self._pull / self._factor

    def steer(self, selection: Selection, step: int) -> None:
        """Measure, and set the strength, if a check is due after this step."""
        share, tracker = self._share, selection.tracker
        if not share.due(step):
            return
        counts = frequency_counts(tracker, selection.names)
        allowed = share.allowed(step, counts.share)
        ratio = max(counts.share / allowed, math.exp(-_LARGEST_ERROR))
        error = min(math.log(ratio), _LARGEST_ERROR)
        pull = FIRST if self._pull is None else self._pull
        pull *= math.exp(tracker.momentum * share.every * error)
        self._pull = min(MOST, max(LEAST, pull))
        share.record(step, counts.share, counts.frozen_share, self.strength)

    def report(self) -> dict[str, Any]:
        """Return what `ShareTarget.report` does."""
        return self._share.report("strength")

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept between checks."""
        return {"share": self._share.state_dict(), "pull": self._pull}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self._share.load_state_dict(state["share"])
        self._pull = state["pull"]
