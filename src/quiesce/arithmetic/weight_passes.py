"""The passes of trackers and cures over latent weights, as pure tensor functions.

Each reads every weight once, and can be compiled into one kernel.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.estimators import Estimator
from quiesce.arithmetic.levels import Levels
from quiesce.arithmetic.weight_history import Layout

Pass = Callable[..., Tensor]
"""Function from (operands, further tensors...) to a tensor."""


class Operands(NamedTuple):
    """Weights of one grid, as operands of the passes."""

    latent: Tensor
    """Floats of any shape: (rows, entries) of a block, those of a layer, or a selection."""
    scale: Tensor
    """Floats per code, above 0, broadcastable to the latent."""
    limits: Tensor
    """(quant_min, quant_max) as a tensor, so that one compiled kernel serves every grid."""
    records: Tensor
    """History records in the shape of the latent weight, see `weight_history`."""
    estimator: Estimator
    """The estimator that rounds."""
    levels: Levels = Levels()
    """The values of the codes in units of the scale."""
    average: Tensor | None = None
    """Average of past latents, in the shape of the latent, where the tracker decides by it."""


def rounded(weight: Operands) -> Tensor:
    """Return the codes without freezing: integral, float32 or wider."""
    wide = weight.latent.to(torch.promote_types(weight.latent.dtype, torch.float32))
    place = weight.levels.place(wide / weight.scale)
    if weight.average is not None:
        average = weight.levels.place(weight.average.to(wide.dtype) / weight.scale)
        code = weight.estimator.choose(place, average)
        return code.clamp(weight.limits[0], weight.limits[1])
    previous = None
    if weight.estimator.needs_history:
        previous = weight_history.code_of(weight.records, _layout(weight))
    code = weight.estimator.round(place, previous)
    return code.clamp(weight.limits[0], weight.limits[1])


def emitted(weight: Operands) -> Tensor:
    """Return the codes in use, including frozen codes; dtype as in `rounded`."""
    pinned = weight_history.code_of(weight.records, _layout(weight))
    return torch.where(
        weight_history.is_frozen(weight.records, _layout(weight)), pinned, rounded(weight)
    )


def quantized(weight: Operands) -> Tensor:
    """Return the quantized weights in the shape of the latent weight, float32 or wider."""
    return in_use(weight, emitted(weight))


def in_use(weight: Operands, codes: Tensor) -> Tensor:
    """Return the values of codes: scale * code, or scale * level; float32 or wider."""
    return weight.scale * weight.levels.of_codes(codes)


def follow(weight: Operands, average: Tensor, rate: Tensor) -> Tensor:
    """Move an average of latents by `rate` towards the latents, in place; return it.

    Args:
        weight: Weights (rows, entries).
        average: The average, in the shape and dtype of the latents.
        rate: Weight of the latents of now, broadcastable.
    """
    moved = average + rate * (weight.latent - average)
    return average.copy_(torch.where(rate < 1, moved, weight.latent))


def settle(weight: Operands, changes: Tensor) -> Tensor:
    """Set frozen latent weights to scale * code in place, and find the records out of date.

    Args:
        weight: Weights of any shape.
        changes: uint8 of this shape, set to `weight_history.change_of`.

    Returns:
        `changes`.
    """
    found = weight_history.change_of(weight.records, rounded(weight), _layout(weight))
    _pin(weight)
    return changes.copy_(found.to(torch.uint8))


def track(
    weight: Operands, frequency: Tensor, average: Tensor | None, event: Tensor, entry: Tensor
) -> Tensor:
    """Run one tracker step in place: records, frequencies, averages, and frozen latent weights.

    Args:
        weight: Weights (rows, entries); their records are updated.
        frequency: Stored frequencies; `event` is added where a weight oscillated.
        average: Stored averages, or None; `entry` times the change of the code is added.
        event: A scalar.
        entry: A scalar.

    Returns:
        float32 (2, rows): numbers of flips and of oscillations.
    """
    moves = weight_history.advance(weight.records, rounded(weight), _layout(weight))
    _pin(weight)
    weight.records.copy_(moves.record)
    oscillated = torch.where(moves.oscillated, 1.0, 0.0)
    frequency.add_(event * oscillated)
    if average is not None:
        average.add_(entry * moves.jump)
    flipped = torch.where(moves.flipped, 1.0, 0.0)
    return torch.stack([flipped.sum(1), oscillated.sum(1)])


def inside(weight: Operands) -> Tensor:
    """Return whether the latent weights are within the ends of the grid and not frozen: bool."""
    wide = weight.latent.to(torch.promote_types(weight.latent.dtype, torch.float32))
    low, high = (in_use(weight, end) for end in weight.limits.unbind())
    frozen = weight_history.is_frozen(weight.records, _layout(weight))
    return (wide >= low) & (wide <= high) & ~frozen


def residual(weight: Operands) -> Tensor:
    """Return latent minus quantized weight inside the range; 0 outside and for frozen weights."""
    wide = weight.latent.to(torch.promote_types(weight.latent.dtype, torch.float32))
    off_grid = wide - in_use(weight, rounded(weight))
    return torch.where(inside(weight), off_grid, 0.0)


def pull(weight: Operands, factors: Tensor) -> Tensor:
    """Return the dampening sum of factor * residual^2, a scalar; `factors` broadcast."""
    return (factors * residual(weight).square()).sum()


def pull_gradient(weight: Operands, factors: Tensor, upstream: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of `pull` times a scalar to `out`, like the latent weight; return it."""
    return out.copy_(2 * upstream * factors * residual(weight))


def _layout(weight: Operands) -> Layout:
    return Layout.read(weight.records, weight.limits)


def _pin(weight: Operands) -> None:
    code = weight_history.code_of(weight.records, _layout(weight))
    pinned = in_use(weight, code).to(weight.latent.dtype)
    frozen = weight_history.is_frozen(weight.records, _layout(weight))
    weight.latent.copy_(torch.where(frozen, pinned, weight.latent))
