"""The momentum of frequencies for a training of known length.

A frequency is an average over about 1/momentum steps, and that of a weight that stops oscillating
falls by a factor 1 - momentum per step. From 0.5, a high frequency, it needs 4.6/momentum steps to
the cut of 0.005. A share of oscillating weights at the end of a training therefore says little if
the momentum is too small for its length.

If the momentum is above the cut, one oscillation suffices to count for ln(momentum/cut)/momentum
steps. This time falls with the momentum from 0.0136 on, so a large momentum would lower the share
merely because it forgets. It is therefore at most 0.05, which remembers one oscillation for 45
steps, and no larger than the length of the training requires.
"""

from math import ceil, log, log1p

import torch

LEAST, MOST = 0.001, 0.05
"""Range of momenta: that of the published recipes, and 45 steps of memory for one oscillation."""

MEMORIES = 15
"""Length of a training in units of 1/momentum: enough to measure, to freeze, and to forget."""

HIGH = 0.5
"""A high frequency. A weight can oscillate in every step, but hardly ever does."""


def decay_of(momentum: float) -> float:
    """Return 1 - momentum rounded to float32, so that it agrees with float32 passes over weights.

    Raises:
        ValueError: `momentum` is outside (0, 1).
    """
    if not 0 < momentum < 1:
        raise ValueError(f"momentum must be above 0 and below 1, got {momentum}")
    return torch.tensor(1 - momentum, dtype=torch.float32).item()


def momentum_for(total: int) -> float:
    """Return the momentum for a training that aims at a share of oscillating weights at its end.

    Args:
        total: Optimizer steps of the training, at least 1.

    Returns:
        15/total, at least 0.001 (from 15,000 steps on) and at most 0.05 (up to 300 steps).

    Raises:
        ValueError: `total` is below 1.

    Examples:
        >>> [qs.momentum_for(total) for total in (300, 1500, 500_000)]
        [0.05, 0.01, 0.001]
    """
    if total < 1:
        raise ValueError(f"total must be at least 1 optimizer step, got {total}")
    return min(MOST, max(LEAST, MEMORIES / total))


def steps_to_forget(momentum: float, cut: float) -> int:
    """Return the steps in which the frequency of a weight that rests falls from `HIGH` to `cut`."""
    return ceil(log(HIGH / cut) / momentum)


def steps_of_one(momentum: float, cut: float) -> float:
    """Return for how many steps a single oscillation keeps a frequency above `cut`."""
    return max(0.0, log(momentum / cut) / -log1p(-momentum))
