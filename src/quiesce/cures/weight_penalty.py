"""A penalty on all latent weights as one autograd function, with a closed-form backward.

A graph of elementwise operations would keep several tensors per weight and make many passes.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from quiesce.arithmetic.weight_passes import Operands
from quiesce.oscillation.weight_blocks import Block


class Penalty(Protocol):
    """A penalty at the time of a forward pass."""

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of all groups of the tracker, in order."""
        ...

    def value(self) -> Tensor:
        """Return the penalty, a scalar."""
        ...

    def gradient(self, i: int, now: Operands, upstream: Tensor) -> Tensor:
        """Return the gradient of the latents of a block times a scalar: (rows, columns).

        Args:
            i: Position of the block.
            now: Its weights.
            upstream: The scalar.
        """
        ...


def on_weights(penalty: Penalty, latents: Sequence[Tensor]) -> Tensor:
    """Return the penalty, such that its gradient flows to the latents.

    Args:
        penalty: The penalty.
        latents: `QuantizedWeight.differentiable` of all weights, in the order of the groups.
    """
    return _OnWeights.apply(penalty, *latents)  # pyright: ignore[reportReturnType]


class _OnWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, penalty: Penalty, *latents: Tensor) -> Tensor:
        ctx.penalty = penalty
        ctx.save_for_backward(*latents)
        return penalty.value()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # the saved latents are the parameters themselves; unpacking them makes autograd raise
        # an error if they were changed in place before the backward
        latents = ctx.saved_tensors
        blocks = ctx.penalty.blocks
        parts: dict[int, list[Tensor]] = {}
        first = 0  # position in `latents` of the first layer of the group
        for i, block in enumerate(blocks):
            if i and block.group is not blocks[i - 1].group:
                first += len(blocks[i - 1].group.weights)
            gradient = ctx.penalty.gradient(i, block.read(), grads[0])
            for index, part in block.layer_parts(gradient):
                parts.setdefault(first + index, []).append(part)
        pulls = [_in_shape(parts[i], latent) for i, latent in enumerate(latents)]
        return None, *pulls


def _in_shape(parts: list[Tensor], like: Tensor) -> Tensor:
    """Return values in storage order as a tensor with the shape and strides of a latent."""
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    return values.as_strided(like.shape, like.stride(), values.storage_offset())
