"""Where latent weights are between two thresholds; oscillating weights gather at the thresholds.

The offset of a latent weight w is u - round(u) with u = w/scale, in [-1/2, 1/2]: 0 is a grid point,
1/2 and -1/2 are thresholds. Latent weights outside the grid are clipped and have no offset.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.quantization.quantized_weight import QuantizedWeight

NEAR = 0.01
"""Distance from a threshold, in codes, that counts as near."""

BINS = 50


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges."""

    edges: tuple[float, ...]
    """Edges of the bins, ascending; one more than counts."""
    counts: tuple[int, ...]


@torch.no_grad()
def offsets(weight: QuantizedWeight) -> Tensor:
    """Return the offsets of the latent weights inside the grid: shape (weights,)."""
    place = _place(weight)
    inside = place[~_clipped(place, weight)]
    return inside - torch.round(inside)


@torch.no_grad()
def clipped(weight: QuantizedWeight) -> float:
    """Return the share of latent weights outside the grid, 0 to 1."""
    return _clipped(_place(weight), weight).double().mean().item()


def near_threshold(weight: QuantizedWeight, within: float = NEAR) -> float:
    """Return the share of all weights whose latent weight is near a threshold, 0 to 1.

    Args:
        weight: The weight. Frozen latent weights are on their codes, far from thresholds.
        within: Largest distance from a threshold, in codes, 0 to 1/2.
    """
    near = 0.5 - offsets(weight).abs() <= within
    return near.sum().item() / weight.latent.numel()


def offset_histogram(weight: QuantizedWeight, bins: int = BINS) -> Histogram:
    """Return a histogram of the offsets in `bins` equal bins from -1/2 to 1/2."""
    found = offsets(weight)
    places = ((found + 0.5) * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(places, minlength=bins)
    edges = tuple(i / bins - 0.5 for i in range(bins + 1))
    return Histogram(edges=edges, counts=tuple(counts.tolist()))


def _place(weight: QuantizedWeight) -> Tensor:
    """Return the latents in codes: u, or the place of u between the levels of a codebook."""
    latent = weight.held
    wide = torch.promote_types(latent.dtype, torch.float32)  # as codes are computed
    return weight.grid.levels.place(latent.to(wide) / weight.scale)


def _clipped(place: Tensor, weight: QuantizedWeight) -> Tensor:
    return (place < weight.grid.quant_min) | (place > weight.grid.quant_max)
