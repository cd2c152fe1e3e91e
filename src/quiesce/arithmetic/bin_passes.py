"""The passes of bin regularization over latent weights, as pure tensor functions.

A bin is the set of weights of a layer with the same code. Bins are numbered layer by layer.
"""

import torch
from torch import Tensor

from quiesce.arithmetic.weight_passes import Operands, emitted, inside, residual


def bins(weight: Operands, first: Tensor) -> Tensor:
    """Return the number of the bin of each weight: int64 in the shape of the latent weight.

    Args:
        weight: Weights (rows, entries).
        first: Number of the first bin of the layer of each row: int64 (rows, 1).
    """
    return first + (emitted(weight) - weight.limits[0]).to(torch.int64)


def bin_gradient(
    weight: Operands, first: Tensor, slopes: Tensor, shifts: Tensor, upstream: Tensor, out: Tensor
) -> Tensor:
    """Write upstream * (slope * residual + shift), with the numbers of the bin of each weight.

    Args:
        weight: Weights (rows, entries).
        first: As in `bins`.
        slopes: One number per bin: (bins,).
        shifts: One number per bin: (bins,).
        upstream: A scalar.
        out: The gradient, like the latent weight; set to 0 for frozen and clipped weights.

    Returns:
        `out`.
    """
    which = bins(weight, first)
    pull = upstream * (slopes[which] * residual(weight) + shifts[which])
    return out.copy_(torch.where(inside(weight), pull, 0.0))
