"""The elementwise passes, as they are or each compiled into one fused kernel.

`EAGER` runs the functions of `fake_quantize` and `passes` operator by operator. `FUSED` compiles
the same functions, one by one (see `fused`): each becomes a single pass over memory, on CPUs and
GPUs alike. Tensors are flattened first and sizes are free, so that a handful of kernels
serves all layers of a model and any batch. Both give the same bits forward.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from quiesce.arithmetic.fake_quantize import Gradients, Rule, quantize_backward, quantize_forward
from quiesce.arithmetic.fused import fused
from quiesce.arithmetic.memory_order import flatten, outermost_first, storage_order, unflatten


class Kernels(NamedTuple):
    """One way to run every pass."""

    forward: Callable[..., Tensor]
    """`fake_quantize.quantize_forward`"""
    backward: Callable[..., Gradients]
    """`fake_quantize.quantize_backward`"""
    over_weights: Callable[..., Tensor]
    """(pass of `quiesce.arithmetic.weight_passes`, its arguments...) to what the pass returns."""


def _forward(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    limits: Tensor,
    history: Tensor | None,
    rule: Rule,
) -> Tensor:
    shape = _Flat.of(x, scale, offset, history)
    if shape is None:
        return quantize_forward(x, scale, offset, limits, history, rule)
    out = fused(quantize_forward)(
        shape.flat(x),
        shape.per_row(scale),
        shape.per_row(offset),
        limits,
        shape.flat(history),
        rule,
    )
    return shape.restore(out)


def _backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    limits: Tensor,
    history: Tensor | None,
    rule: Rule,
) -> Gradients:
    shape = _Flat.of(x, scale, offset, history)
    if shape is None:
        return quantize_backward(grad, x, scale, offset, limits, history, rule)
    out = fused(quantize_backward)(
        shape.flat(grad),
        shape.flat(x),
        shape.per_row(scale),
        shape.per_row(offset),
        limits,
        shape.flat(history),
        rule,
    )
    grad_offset = None if offset is None else out.offset.view(offset.shape)
    return Gradients(shape.restore(out.x), out.scale.view(scale.shape), grad_offset)


class _Flat(NamedTuple):
    """How a tensor and what belongs to it become one row, or one row per channel."""

    like: Tensor
    order: tuple[int, ...] | None
    rows: int

    @classmethod
    def of(
        cls, x: Tensor, scale: Tensor, offset: Tensor | None, history: Tensor | None
    ) -> "_Flat | None":
        """None where it can not be done: channels not outermost, or a history laid otherwise."""
        order = storage_order(x)
        rows = scale.numel()
        if rows > 1 and (scale.shape[0] != rows or not outermost_first(order)):
            return None
        if offset is not None and offset.numel() != rows:
            return None
        if history is not None and history.stride() != x.stride():
            return None
        return cls(x, order, rows)

    def flat(self, x: Tensor | None) -> Any:
        if x is None:
            return None
        row = flatten(x, self.order)
        return row if self.rows == 1 else row.view(self.rows, -1)

    def per_row(self, scale: Tensor | None) -> Any:
        if scale is None:
            return None
        return scale.view(() if self.rows == 1 else (self.rows, 1))

    def restore(self, out: Tensor) -> Tensor:
        return unflatten(out.view(-1), self.like, self.order)


def _run(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return function(*args)


def _run_compiled(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return fused(function)(*args)


EAGER = Kernels(quantize_forward, quantize_backward, _run)
FUSED = Kernels(_forward, _backward, _run_compiled)
