"""Means with their spread, and differences with their 95 % interval (t distribution).

Runs of one seed share data order, augmentation and float network, so the difference of two recipes
is taken seed by seed where they share seeds: what the seed does to both cancels out. Otherwise it
is Welch's, for two samples of unequal variance (B. L. Welch, Biometrika 34, 1947).
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from quiesce.extras import require

COVERAGE = 0.95
"""Share of repetitions in which an interval holds the true difference."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over seeds."""

    n: int
    """How many seeds, at least 1."""

    mean: float
    """Their mean."""

    std: float | None
    """Sample standard deviation (n - 1 in the denominator); None for one seed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of one group minus mean of the baseline."""

    value: float
    """The difference; over the shared seeds where it is paired."""

    low: float | None
    """Lower end of the 95 % interval; None where there is none."""

    high: float | None
    """Upper end."""

    method: Literal["paired", "welch", "none"]
    """How the interval was made: by seed; of two samples; not at all, for want of seeds."""

    n: int
    """paired: shared seeds; welch, none: seeds of the smaller of the two groups."""


def spread(values: Iterable[float]) -> Spread | None:
    """Return mean and standard deviation; None where there is no value."""
    numbers = list(values)
    if not numbers:
        return None
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(n=len(numbers), mean=statistics.fmean(numbers), std=std)


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return how far a group is from the baseline.

    Args:
        values: Seed to number.
        baseline: Seed to number. With two seeds or more in common the interval is paired, over
            those seeds; with fewer it is Welch's, which needs two in each.

    Returns:
        The difference; None where one of the two has no value.

    Raises:
        MissingExtraError: scipy, which knows the t distribution, is not installed.
    """
    if not values or not baseline:
        return None
    shared = [seed for seed in values if seed in baseline]
    if len(shared) > 1:
        return _paired([values[seed] - baseline[seed] for seed in shared])
    return _welch(list(values.values()), list(baseline.values()))


def _paired(differences: list[float]) -> Difference:
    n = len(differences)
    mean = statistics.fmean(differences)
    half = t_quantile(n - 1) * statistics.stdev(differences) / sqrt(n)
    return Difference(value=mean, low=mean - half, high=mean + half, method="paired", n=n)


def _welch(values: list[float], baseline: list[float]) -> Difference:
    mean = statistics.fmean(values) - statistics.fmean(baseline)
    n = min(len(values), len(baseline))
    if n < 2:
        return Difference(value=mean, low=None, high=None, method="none", n=n)
    variances = [statistics.variance(each) / len(each) for each in (values, baseline)]
    half = 0.0
    if (total := sum(variances)) > 0:
        freedoms = (len(values) - 1, len(baseline) - 1)
        spent = sum((v / total) ** 2 / f for v, f in zip(variances, freedoms, strict=True))
        half = t_quantile(1 / spent) * sqrt(total)
    return Difference(value=mean, low=mean - half, high=mean + half, method="welch", n=n)


def t_quantile(degrees: float) -> float:
    """Return the t below which (1 + 0.95)/2 of Student's distribution lies.

    Args:
        degrees: Degrees of freedom, above 0; not necessarily whole.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    special = require("scipy.special", "an interval over seeds", "train")
    return float(special.stdtrit(degrees, (1 + COVERAGE) / 2))
