"""Flattening of tensors to one row of memory in any memory format, and the inverse.

A one-dimensional elementwise pass compiles to one kernel for all layers. Elements are in storage
order, so a channels-last tensor is not copied.
"""

import torch
from torch import Tensor


def storage_order(x: Tensor) -> tuple[int, ...] | None:
    """Return the dimensions of `x` by descending stride; None for 0, 1, 2, ..."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    return tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], dim)))


def outermost_first(order: tuple[int, ...] | None) -> bool:
    """Return whether dimension 0 is outermost, so that x[0] precedes x[1] in memory."""
    return order is None or order[0] == 0


def flatten(x: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Return `x` as (elements,) in this order: a view if its memory has no gaps, else a copy."""
    return x.reshape(-1) if order is None else x.permute(order).reshape(-1)


def is_dense(x: Tensor) -> bool:
    """Return whether `x` fills one range of memory without gaps, so that `flatten` is a view."""
    order = storage_order(x)
    return order is None or x.permute(order).is_contiguous()


def indices(flags: Tensor) -> Tensor:
    """Return `flags.nonzero().squeeze(1)` of uint8 flags on a CPU, faster if few are set."""
    whole = flags.numel() // 8 * 8
    words = flags[:whole].view(torch.int64)
    hit = words.nonzero().view(-1)
    inside = words[hit].view(torch.uint8).nonzero().view(-1)
    found = hit[inside // 8] * 8 + inside % 8
    if whole == flags.numel():
        return found
    return torch.cat([found, flags[whole:].nonzero().view(-1) + whole])


def unflatten(flat: Tensor, like: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Return a view of `flat` in the shape of `like`: the inverse of `flatten(like, order)`."""
    if order is None:
        return flat.view(like.shape)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return flat.view([like.shape[dim] for dim in order]).permute(inverse)
