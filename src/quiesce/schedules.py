"""Schedules: a strength or a threshold as a pure function of the optimizer step.

A schedule is called with a step, counted from 0, and returns a float. It holds no state, so
resuming, skipping or repeating a step cannot disturb it. Any callable of that kind does where
quiesce asks for a schedule; `constant`, `linear` and `cosine` make the usual ones.

Source of the cosine with a late begin: Nagel et al., Overcoming Oscillations in QAT, ICML 2022,
arXiv:2203.11086.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Shape: TypeAlias = Literal["constant", "linear", "cosine"]
ScheduleLike: TypeAlias = Callable[[int], float | None]
"""Optimizer step to value; None where the thing scheduled is off."""


@dataclass(frozen=True)
class Schedule:
    """A value that holds at `start`, then moves to `end` along `shape`, then holds there.

    Made by `constant`, `linear` and `cosine`; equal schedules compare equal, and can be pickled.
    """

    shape: Shape
    """How the value moves between its two ends."""
    start: float
    """Value up to `begin_step`."""
    end: float
    """Value from step `total` on."""
    total: int
    """Length of the training, in optimizer steps."""
    begin: float
    """When the value starts to move, as a share of `total`, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"`{name}` must be a finite number, got {getattr(self, name)}")
        if self.total < 1:
            raise ValueError(f"`total` must be at least 1 optimizer step, got {self.total}")
        if not 0 <= self.begin <= 1:
            raise ValueError(f"`begin` must be 0 to 1, a share of `total`, got {self.begin}")

    @property
    def begin_step(self) -> float:
        """First moment of the movement, in optimizer steps; whatever waits for it is off before."""
        return self.begin * self.total

    def __call__(self, step: int) -> float:
        """Return the value at `step`, counted from 0."""
        if step < self.begin_step or self.shape == "constant":
            return self.start
        if step >= self.total:
            return self.end
        progress = (step - self.begin_step) / (self.total - self.begin_step)
        if self.shape == "linear":
            return (1 - progress) * self.start + progress * self.end
        return self.end + (self.start - self.end) / 2 * (1 + math.cos(math.pi * progress))

    def __repr__(self) -> str:
        """Return the call that makes this schedule."""
        if self.shape == "constant":
            return f"constant({self.start})"
        return f"{self.shape}({self.start}, {self.end}, total={self.total}, begin={self.begin})"


def constant(value: float) -> Schedule:
    """Return the schedule that is `value` at every step.

    Args:
        value: In the unit of whatever is scheduled.

    Returns:
        A schedule that begins at step 0.

    Raises:
        ValueError: `value` is not finite.

    Examples:
        >>> strength = qs.constant(0.5)
        >>> strength(0), strength(1000)
        (0.5, 0.5)
    """
    return Schedule("constant", start=value, end=value, total=1, begin=0.0)


def linear(start: float, end: float, total: int, begin: float = 0.0) -> Schedule:
    """Return the schedule that moves from `start` to `end` in a straight line.

    Args:
        start: Value until `begin * total`.
        end: Value at step `total` and after it.
        total: Length of the training, in optimizer steps, at least 1.
        begin: When the line starts, as a share of `total`, 0 to 1.

    Returns:
        The schedule; `begin_step` is where the line starts.

    Raises:
        ValueError: `start` or `end` is not finite, `total` is below 1, `begin` is not in [0, 1].

    Examples:
        >>> strength = qs.linear(0, 1, total=100, begin=0)
        >>> strength(0), strength(50), strength(100)
        (0.0, 0.5, 1)
    """
    return Schedule("linear", start=start, end=end, total=total, begin=begin)


def cosine(start: float, end: float, total: int, begin: float = 0.25) -> Schedule:
    """Return the schedule that moves from `start` to `end` along half a cosine.

    With t0 = begin * total it is `start` for step < t0, and from there
    end + (start - end)/2 * (1 + cos(pi * (step - t0) / (total - t0))).

    Args:
        start: Value until `begin * total`.
        end: Value at step `total` and after it.
        total: Length of the training, in optimizer steps, at least 1.
        begin: When the cosine starts, as a share of `total`, 0 to 1; the published recipes of
            dampening and freezing wait for a quarter of the training.

    Returns:
        The schedule; `begin_step` is where the cosine starts.

    Raises:
        ValueError: `start` or `end` is not finite, `total` is below 1, `begin` is not in [0, 1].

    Examples:
        >>> strength = cosine(0.0, 0.1, total=1000)
        >>> [round(strength(step), 3) for step in (0, 250, 625, 1000)]
        [0.0, 0.0, 0.05, 0.1]
    """
    return Schedule("cosine", start=start, end=end, total=total, begin=begin)
