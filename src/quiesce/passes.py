"""The passes that trackers and cures make over a latent weight, as pure tensor functions.

Every one reads each weight once; each can be compiled into one kernel.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from quiesce import history
from quiesce.estimators import Estimator
from quiesce.history import Layout


class Operands(NamedTuple):
    """A weight as the passes see it."""

    latent: Tensor
    """Floats, (elements,), or (channels, inner) with a scale per channel."""
    scale: Tensor
    """Floats per code, above 0, broadcastable to the latent."""
    limits: Tensor
    """(quant_min, quant_max), a tensor so that one compiled kernel serves every grid."""
    records: Tensor
    """History records of the latent's shape, see `quiesce.history`."""
    estimator: Estimator
    """Whose rounding decides codes."""


def rounded(weight: Operands) -> Tensor:
    """Codes of the latents as if nothing were frozen: integral, float32 or wider."""
    wide = weight.latent.to(torch.promote_types(weight.latent.dtype, torch.float32))
    previous = None
    if weight.estimator.needs_history:
        previous = history.code_of(weight.records, _layout(weight))
    code = weight.estimator.round(wide / weight.scale, previous)
    return code.clamp(weight.limits[0], weight.limits[1])


def _layout(weight: Operands) -> Layout:
    return Layout.read(weight.records, weight.limits)


def out_of_date(weight: Operands) -> Tensor:
    """Whether a record does not describe its latent any more: uint8, 0 or 1.

    No bool: compiled for a CPU, flags are stored one by one, which takes twenty times as long.
    """
    stale = history.needs_update(weight.records, rounded(weight), _layout(weight))
    return torch.where(stale, 1.0, 0.0).to(torch.uint8)


def settle(weight: Operands) -> Tensor:
    """Put frozen latents back on scale * code, in place; then as `out_of_date`."""
    stale = out_of_date(weight)
    code = history.code_of(weight.records, _layout(weight))
    pinned = (weight.scale * code).to(weight.latent.dtype)
    frozen = history.is_frozen(weight.records, _layout(weight))
    weight.latent.copy_(torch.where(frozen, pinned, weight.latent))
    return stale


def track(
    weight: Operands, frequency: Tensor, average: Tensor | None, event: Tensor, entry: Tensor
) -> Tensor:
    """One tracker step over a whole weight, in place: records, frequencies, averages of codes.

    Args:
        weight: What is tracked; its records advance.
        frequency: Stored frequencies, of the latent's shape; `event` is added where it oscillated.
        average: Stored averages, or None; `entry` times the jump of the code is added.
        event: A scalar.
        entry: A scalar.

    Returns:
        float64 of shape (2,): how many codes flipped, and how many of those oscillated.
    """
    moves = history.advance(weight.records, rounded(weight), _layout(weight))
    weight.records.copy_(moves.record)
    oscillated = torch.where(moves.oscillated, 1.0, 0.0)
    frequency.add_(event * oscillated)
    if average is not None:
        average.add_(entry * moves.jump)
    flipped = torch.where(moves.flipped, 1.0, 0.0)
    return torch.stack([flipped.sum(dtype=torch.float64), oscillated.sum(dtype=torch.float64)])


def residual(weight: Operands) -> Tensor:
    """Latent minus quantized value inside the range, 0 outside and where frozen: as `rounded`."""
    wide = weight.latent.to(torch.promote_types(weight.latent.dtype, torch.float32))
    off_grid = wide - weight.scale * rounded(weight)
    low, high = weight.scale * weight.limits[0], weight.scale * weight.limits[1]
    free = (wide >= low) & (wide <= high) & ~history.is_frozen(weight.records, _layout(weight))
    return torch.where(free, off_grid, 0.0)


def pull(weight: Operands) -> Tensor:
    """Dampening's sum of squared residuals: a scalar."""
    return residual(weight).square().sum()


def pull_gradient(weight: Operands, factor: Tensor) -> Tensor:
    """`factor`, a scalar, times the residual, in the dtype of the latent."""
    return (factor * residual(weight)).to(weight.latent.dtype)
