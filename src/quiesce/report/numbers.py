"""Formats numbers for the page."""

import statistics
from collections.abc import Iterable, Sequence

MISSING = "\u2013"  # an en dash


def known(values: Iterable[float | None]) -> list[float]:
    """Return the values that are not None."""
    return [value for value in values if value is not None]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    there = known(values)
    return statistics.fmean(there) if there else None


def percent(share: float) -> str:
    """Format a share from 0 to 1: "7.9 %", "0.04 %", "below 0.01 %"."""
    value = 100 * share
    if 0 < value < 0.01:
        return "below 0.01 %"
    return f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %" if value else "0 %"


def nats(value: float) -> str:
    """Format a KL with two decimals, or two significant digits: "1.00 nats", "0.0012 nats"."""
    if value >= 0.01:
        return f"{value:.2f} nats"
    return f"{value:.2g} nats" if value >= 1e-4 else "below 0.0001 nats" if value else "0 nats"


def count(value: int, one: str, many: str | None = None) -> str:
    """Format a count: "1 run", "3 runs"."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Format a number of bytes with three digits: "92.0 kB", "1.42 MB", "320 bytes"."""
    for unit, value in (("GB", count / 1e9), ("MB", count / 1e6), ("kB", count / 1e3)):
        if value >= 1:
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    return f"{count:,.0f} bytes"


def times(more: float, less: float) -> str:
    """Format how often one number holds another: "2.9 times"."""
    return f"{more / less:.1f} times"


def cell(values: Sequence[float | None], digits: int, factor: float = 1.0) -> str:
    """Format one number, or the mean and standard deviation of several: "97.8", "97.8 ± 0.2"."""
    there = [factor * value for value in known(values)]
    if not there:
        return MISSING
    middle = f"{statistics.fmean(there):.{digits}f}"
    return middle if len(there) == 1 else f"{middle} ± {statistics.stdev(there):.{digits}f}"
