"""The passes of cures that change the update of an optimizer step, as pure tensor functions.

They run after the optimizer and before the tracker, so the history records still hold the codes of
the step before. Each reads every weight once, and can be compiled into one kernel.
"""

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.weight_history import Layout
from quiesce.arithmetic.weight_passes import Operands, in_use, rounded


def travel(weight: Operands, before: Tensor, latent_way: Tensor, code_way: Tensor) -> Tensor:
    """Add the distances of an update to sums, in place, and set `before` to the latents.

    Args:
        weight: Weights (rows, entries).
        before: The latents before the step.
        latent_way: Sum of the distances of the latent weights; changed in place.
        code_way: Sum of the distances of the quantized weights, as changes of their codes or
            levels times the scale in use; changed in place.

    Returns:
        `latent_way`.
    """
    now = _wide(weight.latent)
    last = weight_history.code_of(weight.records, _layout(weight))
    jump = weight.levels.of_codes(rounded(weight)) - weight.levels.of_codes(last)
    code_way.add_(weight.scale * torch.where(_frozen(weight), 0.0, jump.abs()))
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
    centre = in_use(weight, rounded(weight)).to(weight.latent.dtype)
    weight.latent.copy_(torch.where(far, centre, weight.latent))
    return torch.where(far, 1.0, 0.0).sum(1)


def intervals(weight: Operands, latent_way: Tensor, code_way: Tensor, rule: Tensor) -> Tensor:
    """Replace distances by the interval between two updates, and by the sum of those to come.

    Args:
        weight: Weights (rows, entries).
        latent_way: See `travel`; set to 0, the sum of updates.
        code_way: See `travel`; set to the interval in steps, 1 or more.
        rule: (alpha, beta): the interval is 1 + beta * floor(ratio / alpha); 1 if alpha is 0.

    Returns:
        Number of weights with an interval above 1 in each row: float32 (rows,).
    """
    alpha, beta = rule[0], rule[1]
    moves = (alpha > 0) & (latent_way > 0) & ~_frozen(weight)
    parts = torch.floor(code_way / torch.where(moves, latent_way * alpha, 1.0))
    code_way.copy_(torch.where(moves, 1 + beta * parts, 1.0))
    latent_way.zero_()
    return torch.where(code_way > 1, 1.0, 0.0).sum(1)


def ramp(
    weight: Operands,
    before: Tensor,
    pending: Tensor,
    interval: Tensor,
    turn: Tensor,
    allowed: Tensor,
) -> Tensor:
    """Undo the updates of latent weights until their interval is over, in place.

    Args:
        weight: Weights (rows, entries).
        before: The latents before the step.
        pending: Sum of the updates that were undone; changed in place.
        interval: Steps from one update to the next; weights with 1 are left as they are.
        turn: A scalar, the step that is a multiple of the interval when an update is due.
        allowed: 1 for rows whose weights may be changed, else 0: (rows, 1).

    Returns:
        `pending`.
    """
    now, held = _wide(weight.latent), _wide(before)
    ramped = (interval > 1) & (allowed > 0) & ~_frozen(weight)
    due = torch.remainder(turn, interval) == 0
    total = pending + (now - held)
    moved = torch.where(due, held + total, held).to(weight.latent.dtype)
    weight.latent.copy_(torch.where(ramped, moved, weight.latent))
    return pending.copy_(torch.where(ramped & ~due, total, 0.0))


def hold(weight: Operands, before: Tensor, limit: Tensor, allowed: Tensor) -> Tensor:
    """Undo the updates of latent weights that were not at a threshold, in place.

    Args:
        weight: Weights (rows, entries).
        before: The latents before the step.
        limit: A scalar, the largest distance from a threshold between two codes, in grid steps.
        allowed: 1 for rows whose weights may be changed, else 0: (rows, 1).

    Returns:
        The latents.
    """
    place = weight.levels.place(_wide(before) / weight.scale)
    place = place.clamp(weight.limits[0], weight.limits[1])
    inside = (place - torch.round(place)).abs() >= 0.5 - limit
    kept = torch.where(inside | (allowed == 0), weight.latent, before)
    return weight.latent.copy_(kept)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _layout(weight: Operands) -> Layout:
    return Layout.read(weight.records, weight.limits)


def _frozen(weight: Operands) -> Tensor:
    return weight_history.is_frozen(weight.records, _layout(weight))
