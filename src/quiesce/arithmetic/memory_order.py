"""Tensors as one row of memory, whatever their memory format, and back.

A pass that does the same to every element need not know about shapes; given one dimension it
compiles to one kernel for all layers. Elements come in the order of storage, so that a
channels-last tensor is not copied.
"""

import torch
from torch import Tensor


def storage_order(x: Tensor) -> tuple[int, ...] | None:
    """Dimensions of `x` by falling stride, as its elements lie in memory; None for 0, 1, 2, ..."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    return tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], dim)))


def outermost_first(order: tuple[int, ...] | None) -> bool:
    """Whether all of x[0] lies before x[1], and so on: rows of memory are slices of dimension 0."""
    return order is None or order[0] == 0


def flatten(x: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """`x` as shape (elements,) in this order: a view where its memory has no gaps, else a copy."""
    return x.reshape(-1) if order is None else x.permute(order).reshape(-1)


def is_dense(x: Tensor) -> bool:
    """Whether the elements of `x` fill one stretch of memory, so that `flatten` copies nothing."""
    order = storage_order(x)
    return order is None or x.permute(order).is_contiguous()


def indices(flags: Tensor) -> Tensor:
    """Where `flags` is not 0: as `flags.nonzero().squeeze(1)`, faster where that is seldom.

    Args:
        flags: uint8 of shape (elements,), on a CPU. Eight at a time are looked at as one integer.

    Returns:
        int64 of shape (found,), rising.
    """
    whole = flags.numel() // 8 * 8
    words = flags[:whole].view(torch.int64).nonzero()
    bytes_ = (words * 8 + torch.arange(8)).view(-1)
    found = bytes_[flags[bytes_] != 0]
    if whole == flags.numel():
        return found
    return torch.cat([found, flags[whole:].nonzero().view(-1) + whole])


def unflatten(flat: Tensor, like: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Undo `flatten(like, order)`: a view of `flat` in the shape of `like`."""
    if order is None:
        return flat.view(like.shape)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return flat.view([like.shape[dim] for dim in order]).permute(inverse)
