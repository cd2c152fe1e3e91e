"""What quiesce needs from a stack for one of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.weight_history import Layout
from quiesce.errors import AttachError
from quiesce.quantization.kinds import Kind, layer_kind

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function of the value, scale and zero point in a forward pass, that returns another value."""


class Reading(NamedTuple):
    """A weight as its next forward pass uses it: value = scale * (code - zero_point).

    All tensors are detached and broadcast to the shape of the latent weight.
    """

    effective: Tensor
    """What is rounded: the latent weight, or the latent weight times `fold`."""
    codes: Tensor
    """The codes that the stack computes: integral floats, in the shape of the latent weight."""
    scale: Tensor
    """Floats per code, above 0."""
    zero_point: Tensor
    """The code of 0, not always an integer."""
    fold: Tensor | None = None
    """Factor of the latent weight, such as that of a folded batch norm; None for 1."""


class Site(ABC):
    """One weight in a model of another toolkit.

    Args:
        name: Name of the layer in the model.
        module: The layer.

    Attributes:
        follows_weight: Whether the stack computes the scale from the weight in each forward pass,
            so that it must be held before codes are frozen.
        why_another_scale: Why the conversion may use another scale, for `quiesce.audit`, or None.
    """

    follows_weight = False
    why_another_scale: str | None = None

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module

    @property
    @abstractmethod
    def latent(self) -> nn.Parameter:
        """The float weight that the optimizer updates, found again at each call."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The integers of the codes."""

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that determine the scale; none if it is not learned."""
        return ()

    @property
    def kind(self) -> Kind:
        """Kind of the layer, for reports."""
        return layer_kind(self.module)

    def agree(self) -> None:  # noqa: B027 (most stacks have nothing that differs)
        """Make processes read the same; called in all of them, after each optimizer step."""

    @abstractmethod
    def read(self) -> Reading:
        """Read the weight as the next forward pass will, without its hooks; changes nothing."""

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        """Write values to the latent weight, in place."""
        self.latent.copy_(values)

    @abstractmethod
    def on_output(self, change: Change) -> RemovableHandle | None:
        """Register a hook that changes the quantized weight in forward passes.

        Returns:
            Its handle, or None if the stack has no place for a hook.
        """

    def hold(self, kept: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """Keep the scale and zero point fixed from now on; called if `follows_weight`.

        Args:
            kept: What an earlier call returned, or None to keep the present ones.

        Returns:
            The tensors that are kept, for `Control` to save.
        """
        raise NotImplementedError

    def before_convert(self) -> None:  # noqa: B027 (most stacks need nothing)
        """Prepare the stack so that its conversion uses the scale of training. Hooks are gone."""

    def converted(self, model: Any) -> Reading | None:
        """Return the weight in what the stack's conversion returned, or None if it is not there."""
        raise AttachError(f"{self.name}: quiesce.audit cannot read conversions of its toolkit")


def codes_of(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the codes of dequantized values: integral floats."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.round(wide / torch.where(scale == 0, 1, scale) + zero_point)


def over_blocks(values: Tensor, shape: torch.Size) -> Tensor:
    """Expand numbers of blocks of weights, one per block, so that they broadcast to the weights.

    >>> over_blocks(torch.tensor([[1, 2]]), torch.Size([3, 4]))
    tensor([[1, 1, 2, 2]])
    """
    for dim, size in enumerate(values.shape):
        if size not in (1, shape[dim - values.dim()]):
            values = values.repeat_interleave(shape[dim - values.dim()] // size, dim)
    return values


class FrozenOutput:
    """Gives frozen weights their codes in forward passes: an instance of `Change`.

    The gradient of the latent is then 0, and that of a learned scale is correct. The records are
    edited in place, also under torch.compile. A copy of the model gets a copy of the records.
    """

    def __init__(self, records: Tensor, layout: Layout) -> None:
        self.records, self.layout = records, layout

    def __call__(self, value: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Return the value with frozen weights at their codes."""
        frozen = weight_history.is_frozen(self.records, self.layout)
        code = weight_history.code_of(self.records, self.layout)
        pinned = scale * (code - zero_point)
        return torch.where(frozen, pinned.to(value.dtype), value)
