"""Where latent weights lie inside their bins: oscillating ones pile up at the thresholds.

The offset of a latent w is t = u - round(u), u = w/scale, in [-1/2, 1/2]: |t| = 1/2 is a threshold,
t = 0 a grid point. Latents beyond the ends of the grid are clipped: no threshold is near them, and
they have no offset here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.quantization.quantized_weight import QuantizedWeight

NEAR = 0.01
"""Distance from a threshold, in codes, within which a latent counts as near it."""

BINS = 50


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges."""

    edges: tuple[float, ...]
    """One more than there are counts, rising."""
    counts: tuple[int, ...]


@torch.no_grad()
def offsets(weight: QuantizedWeight) -> Tensor:
    """Return the offsets of the latents on the grid: shape (not clipped,), float32 or wider."""
    scaled = _scaled(weight)
    inside = scaled[~_clipped(scaled, weight)]
    return inside - torch.round(inside)


@torch.no_grad()
def clipped(weight: QuantizedWeight) -> float:
    """Return the share of latents beyond the ends of the grid, 0 to 1."""
    return _clipped(_scaled(weight), weight).double().mean().item()


def near_threshold(weight: QuantizedWeight, within: float = NEAR) -> float:
    """Return the share of all weights whose latent is near a threshold, 0 to 1.

    Args:
        weight: A frozen one lies on its code, far from any threshold.
        within: In codes, 0 to 1/2: counted where 1/2 - |offset| <= within.
    """
    near = 0.5 - offsets(weight).abs() <= within
    return near.sum().item() / weight.latent.numel()


def offset_histogram(weight: QuantizedWeight, bins: int = BINS) -> Histogram:
    """Return how often each offset occurs, in `bins` equal bins from -1/2 to 1/2."""
    found = offsets(weight)
    places = ((found + 0.5) * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(places, minlength=bins)
    edges = tuple(i / bins - 0.5 for i in range(bins + 1))
    return Histogram(edges=edges, counts=tuple(counts.tolist()))


def _scaled(weight: QuantizedWeight) -> Tensor:
    latent = weight.latent.detach()
    wide = torch.promote_types(latent.dtype, torch.float32)  # as codes are decided
    return latent.to(wide) / weight.scale


def _clipped(scaled: Tensor, weight: QuantizedWeight) -> Tensor:
    return (scaled < weight.grid.quant_min) | (scaled > weight.grid.quant_max)
