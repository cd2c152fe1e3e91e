"""How often each code of the grid is used."""

from dataclasses import dataclass

import torch

from quiesce.quantization.quantized_weight import QuantizedWeight


@dataclass(frozen=True, kw_only=True)
class CodeCounts:
    """Weights per code."""

    code: tuple[int, ...]
    """Every code of the grid, rising."""
    counts: tuple[int, ...]
    """How many weights have it."""


def code_counts(weight: QuantizedWeight) -> CodeCounts:
    """Return how many weights the network computes with at each code of the grid."""
    grid = weight.grid
    places = weight.codes().flatten().long() - grid.quant_min
    counts = torch.bincount(places, minlength=grid.quant_max - grid.quant_min + 1)
    codes = tuple(range(grid.quant_min, grid.quant_max + 1))
    return CodeCounts(code=codes, counts=tuple(counts.tolist()))
