"""A checksum of the bits of a tensor, to compare tensors between processes."""

import torch
from torch import Tensor

from quiesce.arithmetic.memory_order import flatten, storage_order


def checksum(values: Tensor) -> Tensor:
    """Return an int64 checksum of bits and positions, exact in any order of summation."""
    row = flatten(values, storage_order(values))
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[row.element_size()]
    bits = row.view(width).to(torch.int64)
    place = torch.arange(len(bits), device=bits.device)
    # an odd factor per position; int64 wraps around, so no bit is lost to rounding
    return (bits * (2 * place * 0x2545F4914F6CDD1D + 1)).sum()
