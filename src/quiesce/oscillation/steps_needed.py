"""Number of optimizer steps until the frequencies of a tracker are meaningful."""

from math import ceil

FEW = 3.0
"""Steps in units of 1 / momentum, after which the initial value 0 has a weight of e^-3, or 5 %,
in an exponential average."""


def steps_needed(momentum: float) -> int:
    """Return the number of steps after which a frequency near 0 means no oscillation."""
    return ceil(FEW / momentum)
