"""Means with standard deviations, and differences with 95 % confidence intervals, over seeds.

Runs of one seed share data order, augmentation and float network. The difference of two recipes is
therefore paired by seed where they share seeds, so that the effect of the seed cancels out.
Otherwise it is Welch's, for two samples of unequal variance (B. L. Welch, Biometrika 34, 1947).
"""

import statistics
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from quiesce.extras import require

COVERAGE = 0.95
"""Confidence level: the share of repetitions in which an interval holds the true difference."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation of a number over seeds."""

    n: int
    """Number of seeds, at least 1."""
    mean: float
    std: float | None
    """Sample standard deviation (n - 1 in the denominator); None for one seed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of a group minus mean of the baseline, with its 95 % confidence interval."""

    value: float
    """The difference; over the shared seeds if it is paired."""
    low: float | None
    """Lower end of the interval; None if there are too few seeds for one."""
    high: float | None
    """Upper end of the interval."""
    method: Literal["paired", "welch", "none"]
    """How the interval was computed; "none" if there are too few seeds."""
    n: int
    """Number of shared seeds if paired, else of the smaller group."""


def spread(values: Iterable[float]) -> Spread | None:
    """Return mean and standard deviation, or None if there is no value."""
    numbers = list(values)
    if not numbers:
        return None
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(n=len(numbers), mean=statistics.fmean(numbers), std=std)


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return the difference between a group and the baseline.

    Args:
        values: Seed to number.
        baseline: Seed to number. The interval is paired if they share at least two seeds. Otherwise
            it is Welch's, which needs at least two seeds in each.

    Returns:
        The difference, or None if a group has no value.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if not values or not baseline:
        return None
    shared = [seed for seed in values if seed in baseline]
    if paired := len(shared) > 1:
        ours, theirs = [values[seed] for seed in shared], [baseline[seed] for seed in shared]
        value = statistics.fmean(a - b for a, b in zip(ours, theirs, strict=True))
    else:
        ours, theirs = list(values.values()), list(baseline.values())
        value = statistics.fmean(ours) - statistics.fmean(theirs)
    n = min(len(ours), len(theirs))
    if n < 2:
        return Difference(value=value, low=None, high=None, method="none", n=n)
    stats = require("scipy.stats", "an interval over seeds", "train")
    with warnings.catch_warnings():  # equal numbers need no warning: the interval has no width
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = (
            stats.ttest_rel(ours, theirs)
            if paired
            else stats.ttest_ind(ours, theirs, equal_var=False)
        )
        low, high = map(float, test.confidence_interval(COVERAGE))
    return Difference(value=value, low=low, high=high, method="paired" if paired else "welch", n=n)
