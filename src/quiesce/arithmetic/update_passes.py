"""The passes of cures that change the update of an optimizer step, as pure tensor functions.

They run after the optimizer and before the tracker, so the history records still hold the codes of
the step before. Each reads every weight once, and can be compiled into one kernel.
"""

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.weight_history import Layout
from quiesce.arithmetic.weight_passes import Operands, rounded


def travel(weight: Operands, before: Tensor, latent_way: Tensor, code_way: Tensor) -> Tensor:
    """Add the distances of an update to sums, in place, and set `before` to the latents.

    Args:
        weight: Weights (rows, entries).
        before: The latents before the step.
        latent_way: Sum of the distances of the latent weights; changed in place.
        code_way: Sum of the distances of the quantized weights, as changes of their codes times the
            scale in use; changed in place.

    Returns:
        `latent_way`.
    """
    now = _wide(weight.latent)
    last = weight_history.code_of(weight.records, _layout(weight))
    jump = torch.where(_frozen(weight), 0.0, (rounded(weight) - last).abs())
    code_way.add_(weight.scale * jump)
    latent_way.add_((now - _wide(before)).abs())
    before.copy_(weight.latent)
    return latent_way


def recenter(
    weight: Operands, latent_way: Tensor, code_way: Tensor, ratio: Tensor, allowed: Tensor
) -> Tensor:
    """Set latent weights whose code has moved too far to their quantized weight, in place.

    Args:
        weight: Weights (rows, entries).
        latent_way: See `travel`.
        code_way: See `travel`.
        ratio: A scalar; weights with code_way >= ratio * latent_way > 0 are set.
        allowed: 1 for rows whose weights may be set, else 0: (rows, 1).

    Returns:
        Number of weights that were set in each row: float32 (rows,).
    """
    far = (code_way >= ratio * latent_way) & (latent_way > 0) & (allowed > 0) & ~_frozen(weight)
    centre = (weight.scale * rounded(weight)).to(weight.latent.dtype)
    weight.latent.copy_(torch.where(far, centre, weight.latent))
    return torch.where(far, 1.0, 0.0).sum(1)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _layout(weight: Operands) -> Layout:
    return Layout.read(weight.records, weight.limits)


def _frozen(weight: Operands) -> Tensor:
    return weight_history.is_frozen(weight.records, _layout(weight))
