"""How many optimizer steps the frequencies of a tracker need before they tell anything."""

from math import ceil

FEW = 3.0
"""Steps in units of 1 / momentum: an exponential average then still holds e^-3, or 5 %, of its
start, which is 0."""


def steps_needed(momentum: float) -> int:
    """Return the least number of steps after which a frequency near 0 means a weight at rest.

    Args:
        momentum: Weight of the newest step in the frequency, above 0 and below 1.
    """
    return ceil(FEW / momentum)
