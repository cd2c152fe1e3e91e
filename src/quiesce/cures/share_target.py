"""A target for the share of oscillating weights at the end of a training, for cures that steer.

A steered cure measures the share every `every` steps and sets its threshold or strength so that the
share follows a schedule:

    up to `begin`       nothing: frequencies start at 0 and need 3/momentum steps to mean something
    up to `settled`     a cosine from the share at `begin` down to the target
    up to the end       the target

The frequency of a weight that is frozen falls only gradually, so frozen weights count as long as
they are above the cut, and the cosine ends as many steps before the last one as a high frequency
needs to fall below it.
"""

import math
from typing import Any

from quiesce.errors import TrackingError
from quiesce.oscillation.momentum import MEMORIES, momentum_for, steps_to_forget
from quiesce.oscillation.steps_needed import steps_needed
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.schedules import cosine

TOLERANCE = 0.2
"""The target counts as reached up to this much above it, relative to it."""

BEGIN = 0.25
"""Share of the training before steering begins, as in the published recipes."""

EVERY, CHECKS = 100, 30
"""Steps between two measurements, and how many there are at least."""

KEPT = 32
"""Measurements in the report, at most."""


class ShareTarget:
    """The allowed share as a function of the step, and what was measured.

    Args:
        target: Share of oscillating weights at the end, above 0 and below 1.

    Attributes:
        target: The same.
        total: Optimizer steps of the training.
        every: Steps between two measurements.

    Raises:
        ValueError: `target` is out of range.
    """

    def __init__(self, target: float) -> None:
        if not 0 < target < 1:
            raise ValueError(
                f"target must be above 0 and below 1, a share of oscillating weights, got {target}"
            )
        self.target = target
        self.total = self.every = 1
        self._begin = self._settled = 0
        self._reset()

    def attach(self, tracker: OscillationTracker, total: int | None, cure: str) -> None:
        """Plan a training of `total` steps, and suggest a momentum to the tracker.

        Args:
            tracker: The tracker, before its first step.
            total: Optimizer steps, or None if they are not known.
            cure: Name of the cure, for messages.

        Raises:
            TrackingError: `total` is not known, or the training is too short to reach a target with
                this momentum.
        """
        if total is None:
            raise TrackingError(
                f"{cure}(target=...) needs the length of the training: pass it to quiesce.Control "
                "as total=, in optimizer steps"
            )
        tracker.suggest_momentum(momentum_for(total))
        known, tail = steps_needed(tracker.momentum), steps_to_forget(tracker.momentum, OSCILLATING)
        if known + tail > total:
            raise TrackingError(_too_short(cure, tracker.momentum, total, known + tail))
        self.total = total
        self.every = max(1, min(EVERY, total // CHECKS))
        self._settled = total - tail
        self._begin = min(self._settled, max(known, math.ceil(BEGIN * total)))
        self._reset()

    def _reset(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self._frozen = 0.0
        self._seen: list[tuple[int, float, float | None]] = []

    def remaining(self, step: int) -> int:
        """Return the number of steps after this one."""
        return self.total - 1 - step

    def due(self, step: int) -> bool:
        """Return whether to measure after this step; the last step is one of them."""
        left = self.remaining(step)
        return left >= 0 and left % self.every == 0 and step + 1 >= self._begin

    def allowed(self, step: int, share: float) -> float:
        """Return the share that may oscillate after this step, given the share that does."""
        if self.first is None:
            self.first = share
        start = max(self.first, self.target)
        if step + 1 >= self._settled:
            return self.target
        return cosine(start, self.target, self._settled, self._begin / self._settled)(step + 1)

    def record(self, step: int, share: float, frozen: float, level: float | None) -> None:
        """Remember a measurement.

        Args:
            step: The step.
            share: Oscillating share after it.
            frozen: Frozen share after it.
            level: The threshold or strength that was set.
        """
        self.first = share if self.first is None else self.first
        self.last, self._frozen = share, frozen
        spacing = math.ceil(self.total / self.every / (KEPT - 1))
        if (self.remaining(step) // self.every) % spacing == 0:
            self._seen.append((step + 1, share, level))

    @property
    def reached(self) -> bool:
        """Whether the last measured share is at most `TOLERANCE` above the target."""
        return self.last is not None and self.last <= self.target * (1 + TOLERANCE)

    def report(self, level: str) -> dict[str, Any]:
        """Return the target, what was measured, and whether the target is reached.

        Args:
            level: What is steered: "threshold" or "strength".
        """
        return {
            "target": self.target,
            "share_begin": self.first,
            "share_end": self.last,
            "frozen": self._frozen,
            "reached": self.reached,
            "steered": level,
            "steps": [list(row) for row in self._seen],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured."""
        return {
            "first": self.first,
            "last": self.last,
            "frozen": self._frozen,
            "seen": [list(row) for row in self._seen],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`; the plan stays that of this training."""
        self.first, self.last = state["first"], state["last"]
        self._frozen, self._seen = state["frozen"], [tuple(row) for row in state["seen"]]


def _too_short(cure: str, momentum: float, total: int, needed: int) -> str:
    better = momentum_for(total)
    known, tail = steps_needed(better), steps_to_forget(better, OSCILLATING)
    if known + tail > total:
        least = next(n for n in range(total, needed + MEMORIES * 100) if _enough(n))
        return (
            f"{cure}(target=...) needs at least {least} optimizer steps to measure and lower a "
            f"share, and the training has {total}: train longer, or set a threshold or strength"
        )
    return (
        f"{cure}(target=...) with a tracker momentum of {momentum:g} needs {needed} optimizer "
        f"steps to measure and lower a share, and the training has {total}: leave the momentum "
        f"out, or set it to {better:.3g}"
    )


def _enough(total: int) -> bool:
    momentum = momentum_for(total)
    return steps_needed(momentum) + steps_to_forget(momentum, OSCILLATING) <= total
