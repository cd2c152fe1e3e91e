"""The one view through which trackers, cures and reports see a weight.

Everything above this file knows only `QuantizedWeight`, and nothing of modules or quantizers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quiesce import history
from quiesce.grid import Grid
from quiesce.history import Layout

if TYPE_CHECKING:
    from quiesce.quantizer import FakeQuantizer

Where = Tensor | slice
"""A selection in a flat weight: a 1-D int64 index, or a slice."""


class QuantizedWeight:
    """A latent weight together with the grid that it is rounded to.

    Args:
        name: Name of the parameter's module in the model.
        latent: The float parameter that the optimizer moves.
        quantizer: Its quantizer.
        module: The layer whose weight it is; reports read its kind.
    """

    def __init__(
        self, name: str, latent: nn.Parameter, quantizer: FakeQuantizer, module: nn.Module
    ) -> None:
        self.name = name
        self.latent = latent
        self.module = module
        self._quantizer = quantizer

    def __repr__(self) -> str:
        return f"QuantizedWeight({self.name!r}, {tuple(self.latent.shape)}, {self.grid})"

    @property
    def grid(self) -> Grid:
        """The integers that its codes are."""
        return Grid(self._quantizer.bits, signed=True)

    @property
    def layout(self) -> Layout:
        """How its history records are packed."""
        return Layout.of(self.grid)

    @property
    def scale(self) -> Tensor:
        """Floats per code, above 0, detached, broadcastable to the latent."""
        return self._quantizer.step_size

    @property
    def history(self) -> Tensor:
        """Records of `quiesce.history`, the latent's shape; trackers and cures edit it in place."""
        if self._quantizer.history is None:
            raise TypeError(f"{self.name}: this quantizer was made for activations, not a weight")
        return self._quantizer.history

    @property
    def tracked_by(self) -> object:
        """Whoever keeps the history up to date; there can be one at a time."""
        return self._quantizer.tracked_by

    @tracked_by.setter
    def tracked_by(self, owner: object) -> None:
        self._quantizer.tracked_by = owner

    @property
    def frozen(self) -> Tensor:
        """Which codes are pinned for good: bool, the latent's shape."""
        return history.is_frozen(self.history, self.layout)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The integers that the network computes with now: int8, the latent's shape.

        Reads only; a frozen weight gives its pinned code whatever its latent is.
        """
        return self.emitted().reshape(self.latent.shape).to(torch.int8)

    @torch.no_grad()
    def emitted(self, where: Where = slice(None)) -> Tensor:
        """`codes`, flat and as integral floats, of the selected weights."""
        records = self.history.view(-1)[where]
        pinned = history.code_of(records, self.layout)
        return torch.where(history.is_frozen(records, self.layout), pinned, self.rounded(where))

    @torch.no_grad()
    def quantized(self, where: Where = slice(None)) -> Tensor:
        """Scale * code, flat, of the selected weights."""
        return self._scale_at(where) * self.emitted(where)

    @torch.no_grad()
    def rounded(self, where: Where = slice(None)) -> Tensor:
        """Codes of the latents as if nothing were frozen: integral floats, flat."""
        return self.grid.codes(self._wide().flatten()[where], self._scale_at(where))

    @torch.no_grad()
    def moved(self) -> Tensor:
        """Whether a history record is out of date with its latent: bool, flat."""
        records = self.history.view(-1)
        return history.needs_update(records, self.rounded(), self.layout)

    @torch.no_grad()
    def freeze(self, where: Tensor, codes: Tensor) -> None:
        """Pin codes for good and set the latents to them; what is frozen already stays.

        Args:
            where: bool mask of the latent's shape, or a 1-D int64 index into the flat latent.
            codes: Integers on the grid, of the latent's shape, or one per index.
        """
        records = self.history
        if where.dtype == torch.bool:
            new = history.freeze(records, codes, self.layout)
            records.copy_(torch.where(where, new, records))
        else:
            flat = records.view(-1)
            flat[where] = history.freeze(flat[where], codes, self.layout)
        self.pin()

    @torch.no_grad()
    def pin(self) -> None:
        """Set the latent of every frozen weight to scale * code.

        So that momentum, weight decay, stripping, folding and export can not lose a code.
        """
        pinned = self.scale * history.code_of(self.history, self.layout)
        self.latent.copy_(torch.where(self.frozen, pinned, self.latent))

    @torch.no_grad()
    def pull(self) -> Tensor:
        """Dampening's sum of squared residuals over this weight: a scalar."""
        return self._residual().square().sum()

    @torch.no_grad()
    def pull_gradient(self, factor: Tensor) -> Tensor:
        """`factor` (a scalar) times the residual: of the latent's shape and dtype."""
        return (factor * self._residual()).to(self.latent.dtype)

    def _residual(self) -> Tensor:
        """clip(w) - q inside the range, 0 outside and where frozen: the latent's shape."""
        low, high = self.scale * self.grid.quant_min, self.scale * self.grid.quant_max
        latent = self._wide()
        code = self.grid.codes(latent, self.scale)
        free = (latent >= low) & (latent <= high) & ~self.frozen
        return torch.where(free, latent - self.scale * code, 0.0)

    def _wide(self) -> Tensor:
        """The latent, detached, in the precision in which the quantizer decides codes."""
        return self.latent.detach().to(torch.promote_types(self.latent.dtype, torch.float32))

    def _scale_at(self, where: Where) -> Tensor:
        scale = self.scale
        if scale.numel() == 1:
            return scale.reshape(())
        if isinstance(where, slice):
            return scale.expand_as(self.latent).flatten()[where]
        channels = next(dim for dim, size in enumerate(scale.shape) if size > 1)
        inner = math.prod(self.latent.shape[channels + 1 :])
        return scale.flatten()[(where // inner) % scale.numel()]
