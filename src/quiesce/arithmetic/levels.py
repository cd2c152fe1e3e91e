"""The values of the codes of a grid: integers, or any ascending numbers (a codebook).

`place` maps a scaled value u = x/scale to the axis of codes: the level of code k to k, and linearly
between neighbouring levels. The nearest code is then the nearest integer, a threshold is at half an
integer, and the offset is a share of the distance of two levels. Rounding, estimators, trackers and
cures therefore see one grid of integers, whatever its levels. For integers, `place` is u itself.

    fp4       0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (e2m1 of the Open Compute Project)
    ternary   -1, 0, 1
    binary    -1, 1

Halfway between two levels, the even code is chosen. For fp4, this is the rule of IEEE 754.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Codebook = Literal["fp4", "ternary", "binary"]
CODEBOOKS: tuple[str, ...] = get_args(Codebook)
MOST_LEVELS = 128

_FP4 = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_NAMED: dict[str, tuple[float, ...]] = {
    "fp4": (*(-level for level in reversed(_FP4)), 0.0, *_FP4),
    "ternary": (-1.0, 0.0, 1.0),
    "binary": (-1.0, 1.0),
}


class Segment(NamedTuple):
    """Neighbouring levels at equal distances."""

    low: float
    high: float
    """First and last level; infinite at the ends of the grid, where `place` goes on linearly."""
    first: int
    last: int
    """Their codes."""
    width: float
    """Distance of two levels."""
    level: float
    code: int
    """The end that is nearer to code 0, or code 0."""


@dataclass(frozen=True)
class Levels:
    """The values of codes in units of the scale. It is a constant of compiled passes.

    Attributes:
        values: Ascending numbers, or () for integers.
        first: The code of the first value.
        segments: Stretches of `values` at equal distances.
    """

    values: tuple[float, ...] = ()
    first: int = 0
    segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> "Levels":
        """Return the levels with given values; code 0 is the one nearest to 0.

        Raises:
            TypeError: A value is not a number.
            ValueError: The values do not ascend, are fewer than 2 or more than 128, or none is
                above 0.
        """
        values = tuple(_number(value) for value in values)
        if not 2 <= len(values) <= MOST_LEVELS:
            raise ValueError(f"levels must be 2 to {MOST_LEVELS} numbers, got {len(values)}")
        if not all(low < high < float("inf") for low, high in pairwise(values)):
            raise ValueError(f"levels must ascend and be finite, got {values}")
        if not (values[-1] > 0 and values[0] > -float("inf")):
            raise ValueError(f"levels must be finite and the last above 0, got {values}")
        nearest = min(range(len(values)), key=lambda i: (abs(values[i]), -i))
        return cls(values, -nearest, _segments(values, -nearest))

    def place(self, u: Tensor) -> Tensor:
        """Return the positions of scaled values on the axis of codes, in their shape and dtype."""
        if not self.segments:
            return u
        parts = [(u.clamp(part.low, part.high) - part.level) / part.width for part in self.segments]
        return _sum(parts)

    def of_codes(self, codes: Tensor) -> Tensor:
        """Return the levels of codes on the grid: floats in the shape of `codes`."""
        if not self.segments:
            return codes
        wide = codes if codes.is_floating_point() else codes.to(torch.float32)
        parts = [
            (wide.clamp(part.first, part.last) - part.code) * part.width for part in self.segments
        ]
        return _sum(parts) + self.values[-self.first]


def named_levels(levels: str | Sequence[float]) -> tuple[float, ...]:
    """Return the levels of a codebook by its name; a sequence is returned as a tuple.

    Raises:
        ValueError: There is no codebook of this name.
    """
    if isinstance(levels, str):
        if levels not in _NAMED:
            known = ", ".join(CODEBOOKS)
            raise ValueError(f"weight_levels must be {known} or ascending numbers, got {levels!r}")
        return _NAMED[levels]
    return tuple(levels)


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"levels must be numbers, got {value!r}")
    return float(value)


def _segments(values: tuple[float, ...], first: int) -> tuple[Segment, ...]:
    widths = [high - low for low, high in pairwise(values)]
    starts = [i for i, width in enumerate(widths) if i == 0 or width != widths[i - 1]]
    found = []
    for start, end in pairwise([*starts, len(widths)]):
        nearest = min(max(-first, start), end)
        low = values[start] if start else -float("inf")
        high = values[end] if end < len(widths) else float("inf")
        codes = start + first, end + first
        found.append(Segment(low, high, *codes, widths[start], values[nearest], nearest + first))
    return tuple(found)
