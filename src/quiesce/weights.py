"""The one view through which trackers, cures and reports see a weight.

Everything above this file knows only `QuantizedWeight`, and nothing of modules or quantizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quiesce import history
from quiesce.grid import Grid
from quiesce.history import Layout

if TYPE_CHECKING:
    from quiesce.quantizer import FakeQuantizer


class QuantizedWeight:
    """A latent weight together with the grid that it is rounded to.

    Args:
        name: Name of the parameter's module in the model.
        latent: The float parameter that the optimizer moves.
        quantizer: Its quantizer, calibrated or not.
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
        return self._quantizer.grid or Grid(self._quantizer.bits, signed=True)

    @property
    def layout(self) -> Layout:
        """How its history records are packed."""
        return Layout.of(self.grid)

    @property
    def scale(self) -> Tensor:
        """Floats per code, above 0, detached, broadcastable to the latent."""
        return self._quantizer.step_size

    @property
    def limits(self) -> Tensor:
        """(quant_min, quant_max) as a float tensor on the latent's device."""
        return self._quantizer.limits

    @property
    def history(self) -> Tensor:
        """Records of `quiesce.history`, the latent's shape; trackers and cures edit it in place."""
        if self._quantizer.history is None:
            raise TypeError(
                f"{self.name}: this quantizer was made for activations, not for a weight"
            )
        return self._quantizer.history

    @property
    def frozen(self) -> Tensor:
        """Which codes are pinned for good: bool, the latent's shape."""
        return history.is_frozen(self.history, self.layout)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The integers that the network computes with now: int8, the latent's shape.

        Reads only; a frozen weight gives its pinned code whatever its latent is.
        """
        pinned = history.code_of(self.history, self.layout)
        codes = self.grid.codes(self.latent.detach().float(), self.scale)
        return torch.where(self.frozen, pinned, codes).to(torch.int8)

    @torch.no_grad()
    def freeze(self, where: Tensor, codes: Tensor) -> None:
        """Pin codes for good and set the latents to them; what is frozen already stays.

        Args:
            where: bool mask of the latent's shape, or a 1-D int64 index into the flat latent.
            codes: Integers on the grid, of the latent's shape, or one per index.
        """
        flat = self.history.view(-1)
        if where.dtype == torch.bool:
            new = history.freeze(self.history, codes, self.layout)
            self.history.copy_(torch.where(where, new, self.history))
        else:
            flat[where] = history.freeze(flat[where], codes, self.layout)
        self.pin()

    @torch.no_grad()
    def pin(self) -> None:
        """Set the latent of every frozen weight to scale * code.

        So that momentum, weight decay, stripping, folding and export can not lose a code.
        """
        pinned = self.scale * history.code_of(self.history, self.layout)
        self.latent.copy_(torch.where(self.frozen, pinned, self.latent))
