"""The integer grid of quantized values, and the conversion of floats to it."""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_BITS = 2
MAX_BITS = 8


@dataclass(frozen=True)
class Grid:
    """The integers quant_min .. quant_max of a b-bit code.

    Signed: -2^(b-1) .. 2^(b-1)-1. Unsigned: 0 .. 2^b-1.

    Args:
        bits: Bits of a code, 2 to 8.
        signed: Whether codes can be negative.

    Raises:
        TypeError: `bits` is not an integer.
        ValueError: `bits` is not 2 to 8.

    >>> Grid(3, signed=True).quant_min, Grid(3, signed=True).quant_max
    (-4, 3)
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        check_bits("bits", self.bits)

    @property
    def quant_min(self) -> int:
        """Smallest code."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def quant_max(self) -> int:
        """Largest code."""
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
