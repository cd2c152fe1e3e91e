"""Counts how often each code of the grid is used."""

from dataclasses import dataclass

import torch

from quiesce.quantization.quantized_weight import QuantizedWeight


@dataclass(frozen=True, kw_only=True)
class CodeCounts:
    """Weights per code."""

    code: tuple[int, ...]
    """All codes of the grid, ascending."""
    counts: tuple[int, ...]
    """Number of weights with each code."""


def code_counts(weight: QuantizedWeight) -> CodeCounts:
    """Return how many weights have each code of the grid."""
    grid = weight.grid
    places = weight.codes().flatten().long() - grid.quant_min
    counts = torch.bincount(places, minlength=grid.quant_max - grid.quant_min + 1)
    codes = tuple(range(grid.quant_min, grid.quant_max + 1))
    return CodeCounts(code=codes, counts=tuple(counts.tolist()))
