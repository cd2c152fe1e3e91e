"""Fake quantization: rounding of float tensors to a grid, and its gradients.

Forward: q = s * clip(round((x - b)/s), n, p) + b, for scale s and, in LSQ+, offset b. Backward,
with u = (x - b)/s and z the code, or its level if the levels of the grid are not the integers:

    to x   the gradient of the estimator inside the range, 0 outside
    to s   z - u inside, z outside (LSQ, arXiv:1902.08153), times `grad_scale`
    to b   0 inside, 1 outside (LSQ+, arXiv:2004.09576)

A frozen weight has its frozen code for any latent weight: gradient 0 to x, z to s.

An estimator may round with noise, or with the code of the last step. The noise is an argument, so
the backward pass computes the same codes as the forward pass.

The scale in use is max(|s|, SCALE_FLOOR), so that a learned scale can pass through zero; its
gradient has the sign of s.

`quantize_forward` and `quantize_backward` contain all of the arithmetic. The eager path calls them
directly; `kernels` compiles each of them into one fused pass.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from quiesce.arithmetic.estimators import STE, Estimator
from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.levels import Levels
from quiesce.arithmetic.weight_history import Layout, code_of, is_frozen

if TYPE_CHECKING:
    from collections.abc import Callable

Clip = Literal["range", "round", "grid"]
CLIPS: tuple[str, ...] = get_args(Clip)
SCALE_FLOOR = 2.0**-40  # about 1e-12: below any useful scale, above the subnormals


class Rule(NamedTuple):
    """The options that are constant for a quantizer and compiled into its code."""

    clip: Clip = "range"
    estimator: Estimator = STE()
    levels: Levels = Levels()


def positive(scale: Tensor) -> Tensor:
    """Return the scale in use for a stored scale: its magnitude, at least SCALE_FLOOR."""
    wide = scale.to(torch.promote_types(scale.dtype, torch.float32))  # float16 has no such floor
    return wide.abs().clamp_min(SCALE_FLOOR)


def quantize_forward(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    limits: Tensor,
    history: Tensor | None,
    rule: Rule,
    noise: Tensor | None = None,
) -> Tensor:
    """Return the nearest grid values in the dtype of `x`, computed in float32 or wider.

    Args:
        x: Floats, any shape.
        scale: Floats per code, broadcastable to `x`.
        offset: Value of code 0, broadcastable, or None for 0.
        limits: (quant_min, quant_max) as a tensor, so that one compiled kernel serves every grid.
        history: Records (see `quiesce.arithmetic.weight_history`) of the shape of `x`, or None.
        rule: Clip and estimator.
        noise: Random numbers in [0, 1) of the shape of `x`, for an estimator that needs them.
    """
    step = positive(scale)
    place = rule.levels.place(_scaled(x, step, offset))
    code = _rounded(place, limits, history, rule.estimator, noise).clamp(limits[0], limits[1])
    if history is not None:
        frozen, pinned = _pinned(history, limits)
        code = torch.where(frozen, pinned, code)
    level = rule.levels.of_codes(code)
    out = step * level if offset is None else step * level + offset
    return out.to(x.dtype)


class Gradients(NamedTuple):
    """Gradients with respect to x, scale and offset, in their shapes."""

    x: Tensor
    scale: Tensor
    offset: Tensor | None


def quantize_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    limits: Tensor,
    history: Tensor | None,
    rule: Rule,
    noise: Tensor | None = None,
) -> Gradients:
    """Return all gradients in one pass; arguments as in `quantize_forward`."""
    step = positive(scale)
    u = _scaled(x, step, offset)
    place = rule.levels.place(u)
    rounded = _rounded(place, limits, history, rule.estimator, noise)
    code = rounded.clamp(limits[0], limits[1])
    inside = _inside(place, rounded, limits, rule.clip)
    level = rule.levels.of_codes(code)
    slope = torch.where(inside, level - u, level)
    if history is not None:
        frozen, pinned = _pinned(history, limits)
        inside = inside & ~frozen
        slope = torch.where(frozen, rule.levels.of_codes(pinned), slope)
    wide = grad.to(u.dtype)
    grad_x = torch.where(inside, rule.estimator.gradient(wide, place, code), 0.0).to(x.dtype)
    grad_scale = (wide * slope).sum_to_size(scale.shape) * torch.where(scale < 0, -1.0, 1.0)
    grad_offset = None
    if offset is not None:
        grad_offset = torch.where(inside, 0.0, wide).sum_to_size(offset.shape)
    return Gradients(grad_x, grad_scale, grad_offset)


def _scaled(x: Tensor, step: Tensor, offset: Tensor | None) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide / step if offset is None else (wide - offset) / step


def _rounded(
    place: Tensor,
    limits: Tensor,
    history: Tensor | None,
    estimator: Estimator,
    noise: Tensor | None,
) -> Tensor:
    previous = None
    if estimator.needs_history and history is not None:
        previous = code_of(history, Layout.read(history, limits))
    return estimator.round(place, previous, noise)


def _inside(place: Tensor, rounded: Tensor, limits: Tensor, clip: Clip) -> Tensor:
    if clip == "range":
        return (place >= limits[0]) & (place <= limits[1])
    if clip == "round":
        return (rounded > limits[0]) & (rounded < limits[1])
    return (rounded >= limits[0]) & (rounded <= limits[1])


def _pinned(history: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    layout = Layout.read(history, limits)
    return is_frozen(history, layout), code_of(history, layout)


class FakeQuantize(torch.autograd.Function):
    """`quantize_forward` with `quantize_backward`; saves only its inputs.

    If noise is None, it is not passed to the two functions.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        limits: Tensor,
        history: Tensor | None,
        noise: Tensor | None,
        rule: Rule,
        grad_scale: float | None,
        forward: Callable[..., Tensor],
        backward: Callable[..., Gradients],
    ) -> Tensor:
        ctx.save_for_backward(x, scale, offset, limits, history, noise)
        ctx.rule, ctx.grad_scale, ctx.passes = rule, grad_scale, backward
        drawn = () if noise is None else (noise,)
        return forward(x, scale, offset, limits, history, rule, *drawn)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, scale, offset, limits, history, *noise = ctx.saved_tensors
        drawn = () if noise[0] is None else noise
        out = ctx.passes(grads[0], x, scale, offset, limits, history, ctx.rule, *drawn)
        grad_scale, grad_offset = out.scale, out.offset
        if ctx.grad_scale is not None:
            grad_scale = grad_scale * ctx.grad_scale
            grad_offset = None if grad_offset is None else grad_offset * ctx.grad_scale
        return out.x, grad_scale, grad_offset, None, None, None, None, None, None, None


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    clip: Clip = "range",
    grad_scale: float | Literal["lsq"] | None = None,
    estimator: Estimator = STE(),  # noqa: B008 (immutable)
    offset: Tensor | None = None,
) -> Tensor:
    """Round `x` to a grid with step `scale`, with gradients to x, scale and offset.

    Args:
        x: Floats of any shape. Codes are computed in float32 (float64 for float64 input).
        scale: Floats per code, above 0, broadcastable to `x`: a scalar for one grid per tensor,
            (channels, 1, ...) for one per channel.
        grid: The codes and their levels.
        clip: Condition for a gradient to `x`, with u = x/scale. "range": quant_min <= u <=
            quant_max, as in the paper. "grid": round(u) is on the grid, which allows half a step
            more, as in the code of the paper on older versions of torch. "round": round(u) is
            strictly between the ends, as in that code now, because torch's clamp gives no gradient
            at its bounds.
        grad_scale: Factor of the gradients of scale and offset; "lsq" for 1/sqrt(N*highest), with
            highest the largest level (quant_max) and N the number of elements that share a scale.
        estimator: Rounding and its gradient. Estimators that need noise or history round to
            nearest.
        offset: Value of code 0, broadcastable to `x` (LSQ+), or None for 0.

    Returns:
        Tensor of the shape and dtype of `x`; every value is scale*code (or scale*level) + offset.

    Raises:
        ValueError: `clip` is unknown.

    Source: LSQ arXiv:1902.08153, LSQ+ arXiv:2004.09576.

    Examples:
        >>> grid = qs.Grid(2, signed=True)
        >>> qs.fake_quantize(torch.tensor([0.26, 0.9, -3.0]), torch.tensor(0.5), grid)
        tensor([ 0.5000,  0.5000, -1.0000])
    """
    check_clip(clip)
    factor = lsq_grad_scale(x.numel() // scale.numel(), grid) if grad_scale == "lsq" else grad_scale
    wide = torch.promote_types(x.dtype, torch.float32)
    limits = torch.tensor([grid.quant_min, grid.quant_max], dtype=wide, device=x.device)
    rule = Rule(clip, estimator, grid.levels)
    return FakeQuantize.apply(  # pyright: ignore[reportReturnType]
        x, scale, offset, limits, None, None, rule, factor, quantize_forward, quantize_backward
    )


def lsq_grad_scale(count: int, grid: Grid) -> float:
    """Return 1/sqrt(count * highest), the factor of LSQ for `count` elements per scale."""
    return 1.0 / math.sqrt(max(count, 1) * grid.highest)


def check_clip(clip: str) -> None:
    """Raise ValueError unless `clip` is one of the rules."""
    if clip not in CLIPS:
        raise ValueError(f"clip must be one of {CLIPS}, got {clip!r}")
