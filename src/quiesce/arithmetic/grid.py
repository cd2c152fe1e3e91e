"""The integer grid of quantized values, and the conversion of floats to it."""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_BITS = 2
MAX_BITS = 8


@dataclass(frozen=True)
class Grid:
    """The integers quant_min .. quant_max of a b-bit code.

    Signed: -2^(b-1) .. 2^(b-1)-1. Unsigned: 0 .. 2^b-1. `between` makes a grid of other ends, which
    other toolkits have.

    Args:
        bits: Bits of a code, 2 to 8.
        signed: Whether codes can be negative.
        ends: (quant_min, quant_max) if they lie further inside, or None.

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

    def __post_init__(self) -> None:
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

    def codes(self, x: Tensor, scale: Tensor | float) -> Tensor:
        """Return the integers nearest to x/scale, ties to even, clipped to the grid.

        Args:
            x: Floats of any shape.
            scale: Floats per code, above 0, broadcastable to `x`.

        Returns:
            Integral values in the dtype and shape of `x`; NaN stays NaN.
        """
        return torch.round(x / scale).clamp(self.quant_min, self.quant_max)


def check_bits(name: str, bits: int) -> None:
    """Raise an error unless `bits` is 2 to 8; `name` is the argument name in the message."""
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"{name} must be an integer, got {bits!r}")
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"{name} must be {MIN_BITS} to {MAX_BITS}, got {bits}")
