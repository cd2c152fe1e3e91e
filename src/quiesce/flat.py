"""Tensors as one row of memory, whatever their memory format, and back.

A pass that does the same to every element need not know about shapes; given one dimension it
compiles to one kernel for all layers. Elements come in the order of storage, so that a
channels-last tensor is not copied.
"""

from torch import Tensor


def storage_order(x: Tensor) -> tuple[int, ...]:
    """Dimensions of `x` by falling stride: the order in which its elements lie in memory."""
    strides = x.stride()
    return tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], dim)))


def flatten(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """`x` as shape (elements,) in the order of `order`: a view where its memory has no gaps."""
    return x.reshape(-1) if x.dim() < 2 else x.permute(order).reshape(-1)


def unflatten(flat: Tensor, like: Tensor, order: tuple[int, ...]) -> Tensor:
    """Undo `flatten(like, order)`: a view of `flat` with the shape and strides of `like`."""
    if like.dim() < 2:
        return flat.view(like.shape)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return flat.view([like.shape[dim] for dim in order]).permute(inverse)
