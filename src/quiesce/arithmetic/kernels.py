"""Execution of the elementwise passes, in eager mode or as fused kernels.

`EAGER` runs the functions of `fake_quantize` and `weight_passes` unchanged. `FUSED` compiles each
of them (see `fused`) into a single pass over memory, on CPUs and GPUs. Tensors are flattened first
and sizes are dynamic, so a few kernels work for all layers of a model and any batch size. The
forward passes of both give identical bits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from quiesce.arithmetic.fake_quantize import Gradients, Rule, quantize_backward, quantize_forward
from quiesce.arithmetic.fused import fused
from quiesce.arithmetic.memory_order import flatten, outermost_first, storage_order, unflatten


class Kernels(NamedTuple):
    """One implementation of every pass."""

    forward: Callable[..., Tensor]
    """`fake_quantize.quantize_forward`"""
    backward: Callable[..., Gradients]
    """`fake_quantize.quantize_backward`"""
    over_weights: Callable[..., Tensor]
    """Runs a pass of `quiesce.arithmetic.weight_passes` with its arguments."""


def _forward(*inputs: Any) -> Tensor:
    """Run `quantize_forward`, compiled if the tensors can be viewed as rows."""
    flat = _Flat.of(*inputs)
    if flat is None:
        return quantize_forward(*inputs)
    return flat.restore(fused(quantize_forward)(*flat.inputs(*inputs)))


def _backward(grad: Tensor, *inputs: Any) -> Gradients:
    """Run `quantize_backward`, compiled in the same way."""
    flat = _Flat.of(*inputs)
    if flat is None:
        return quantize_backward(grad, *inputs)
    out = fused(quantize_backward)(flat.flat(grad), *flat.inputs(*inputs))
    _, scale, offset, *_ = inputs
    grad_offset = None if offset is None else out.offset.view(offset.shape)
    return Gradients(flat.restore(out.x), out.scale.view(scale.shape), grad_offset)


class _Flat(NamedTuple):
    """Layout that flattens a tensor, scale, offset and history to one row or one per channel."""

    like: Tensor
    order: tuple[int, ...] | None
    rows: int

    @classmethod
    def of(
        cls, x: Tensor, scale: Tensor, offset: Any, limits: Tensor, history: Any, rule: Rule
    ) -> "_Flat | None":
        """Return the layout, or None if channels are not outermost or history strides differ."""
        order = storage_order(x)
        rows = scale.numel()
        if rows > 1 and (scale.shape[0] != rows or not outermost_first(order)):
            return None
        if offset is not None and offset.numel() != rows:
            return None
        if history is not None and history.stride() != x.stride():
            return None
        return cls(x, order, rows)

    def inputs(
        self, x: Tensor, scale: Tensor, offset: Any, limits: Tensor, history: Any, rule: Rule
    ) -> tuple[Any, ...]:
        """Return the arguments of `quantize_forward` as rows."""
        rows = self.flat(x), self.per_row(scale), self.per_row(offset)
        return *rows, limits, self.flat(history), rule

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
