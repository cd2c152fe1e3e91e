"""The grid of quantized values, and the conversion of floats to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.arithmetic.levels import Levels, named_levels

MIN_BITS = 2
MAX_BITS = 8


@dataclass(frozen=True)
class Grid:
    """The integers quant_min .. quant_max of a b-bit code.

    Signed: -2^(b-1) .. 2^(b-1)-1. Unsigned: 0 .. 2^b-1. `between` makes a grid of other ends.

    The value of a code is the code times the scale, or with `of_levels` its level times the scale:
    ascending numbers at any distances, of which code 0 is the one nearest to 0.

    Args:
        bits: Bits of a code, 2 to 8 (1 to 7 with levels).
        signed: Whether codes can be negative.
        ends: (quant_min, quant_max) if they lie further inside, or None.
        levels: The values of the codes in units of the scale. By default they are integers.

    Raises:
        TypeError: `bits` is not an integer.
        ValueError: `bits` is not 2 to 8, or `ends` is not a range of b-bit codes.

    Examples:
        >>> grid = qs.Grid(3, signed=True)
        >>> grid.quant_min, grid.quant_max
        (-4, 3)
    """

    bits: int
    signed: bool
    ends: tuple[int, int] | None = None
    levels: Levels = Levels()  # noqa: RUF009 (immutable)

    def __repr__(self) -> str:
        shown = ("bits", "signed", "ends", "levels")[: 4 if self.levels.values else 3]
        return f"Grid({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __post_init__(self) -> None:
        if self.levels.values:
            return  # `of_levels` has computed all fields
        check_bits("bits", self.bits)
        full = Grid(self.bits, self.signed) if self.ends is not None else None
        if full is not None and not full.quant_min <= self.quant_min < self.quant_max:
            raise ValueError(f"ends must ascend within {self.bits}-bit codes, got {self.ends}")
        if full is not None and self.quant_max > full.quant_max:
            raise ValueError(f"ends must lie within {self.bits}-bit codes, got {self.ends}")

    @classmethod
    def between(cls, quant_min: int, quant_max: int) -> "Grid":
        """Return the grid of the fewest bits with these ends.

        Raises:
            ValueError: The ends do not ascend, or need more than 8 bits.

        >>> Grid.between(-7, 7)
        Grid(bits=4, signed=True, ends=(-7, 7))
        >>> Grid.between(-8, 7)
        Grid(bits=4, signed=True, ends=None)
        """
        signed = quant_min < 0
        span = max(-quant_min - 1, quant_max) if signed else quant_max
        bits = max(MIN_BITS, span.bit_length() + signed)
        whole = cls(bits, signed)
        if (whole.quant_min, whole.quant_max) == (quant_min, quant_max):
            return whole
        return cls(bits, signed, (quant_min, quant_max))

    @classmethod
    def of_levels(cls, levels: str | Sequence[float]) -> "Grid":
        """Return the grid with given levels; integers without gaps make a grid of integers.

        Args:
            levels: "fp4", "ternary", "binary", or 2 to 128 ascending numbers, the last above 0.

        Raises:
            TypeError: A level is not a number.
            ValueError: The levels do not ascend, or there is no codebook of this name.

        >>> Grid.of_levels("ternary") == Grid.between(-1, 1)
        True
        >>> Grid.of_levels("fp4").quant_min, Grid.of_levels("fp4").highest
        (-7, 6.0)
        """
        made = Levels.of(named_levels(levels))
        count, first = len(made.values), made.first
        if made.values == tuple(range(first, first + count)):
            return cls.between(first, first + count - 1)
        ends = (first, first + count - 1)
        return cls((count - 1).bit_length(), first < 0, ends, made)

    @property
    def quant_min(self) -> int:
        """Smallest code."""
        if self.ends is not None:
            return self.ends[0]
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def quant_max(self) -> int:
        """Largest code."""
        if self.ends is not None:
            return self.ends[1]
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def lowest(self) -> float:
        """Value of the smallest code in units of the scale."""
        return self.levels.values[0] if self.levels.values else float(self.quant_min)

    @property
    def highest(self) -> float:
        """Value of the largest code in units of the scale, above 0."""
        return self.levels.values[-1] if self.levels.values else float(self.quant_max)

    def codes(self, x: Tensor, scale: Tensor | float) -> Tensor:
        """Return the codes nearest to x/scale, ties to even, clipped to the grid.

        Args:
            x: Floats of any shape.
            scale: Floats per code, above 0, broadcastable to `x`.

        Returns:
            Integral values in the dtype and shape of `x`; NaN stays NaN.
        """
        return torch.round(self.levels.place(x / scale)).clamp(self.quant_min, self.quant_max)

    def values(self, codes: Tensor, scale: Tensor | float) -> Tensor:
        """Return the values of codes: scale times code, or scale times level.

        Args:
            codes: Integral values on the grid, any shape.
            scale: Floats per code, broadcastable.
        """
        return self.levels.of_codes(codes) * scale


def check_bits(name: str, bits: int) -> None:
    """Raise an error unless `bits` is 2 to 8; `name` is the argument name in the message."""
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"{name} must be an integer, got {bits!r}")
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"{name} must be {MIN_BITS} to {MAX_BITS}, got {bits}")
