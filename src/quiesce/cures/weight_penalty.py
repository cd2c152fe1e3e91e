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

    def gradient(self, i: int, now: Operands, upstream: Tensor, out: Tensor) -> None:
        """Write the gradient of the latents of a block times a scalar.

        Args:
            i: Position of the block.
            now: Its weights.
            upstream: The scalar.
            out: (rows, columns).
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
        _ = ctx.saved_tensors
        blocks = ctx.penalty.blocks
        of_layers: list[dict[int, Tensor]] = []  # of each group
        for i, block in enumerate(blocks):
            if not i or block.group is not blocks[i - 1].group:
                block.group.refresh()
                of_layers.append({})
            ctx.penalty.gradient(i, block.read(), grads[0], block.result(of_layers[-1]))
        return None, *(layers[i] for layers in of_layers for i in range(len(layers)))
