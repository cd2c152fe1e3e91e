"""The one view through which trackers, cures and reports see a weight.

Everything above this file knows only `QuantizedWeight`, and nothing of modules or quantizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quiesce import history, passes
from quiesce.flat import flatten, outermost_first, storage_order, unflatten
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
        """Floats per code, above 0, detached, broadcastable to the latent.

        Raises:
            NotCalibratedError: It has not been found yet.
        """
        if self._quantizer.grid is None:
            raise self._quantizer.not_calibrated()
        return self._quantizer.step_size

    @property
    def history(self) -> Tensor:
        """Records of `quiesce.history`, the latent's shape and strides; edited in place."""
        records = self._quantizer.history
        if records is None:
            raise TypeError(f"{self.name}: this quantizer was made for activations, not a weight")
        if records.stride() != self.latent.stride():  # the latent has changed its memory format
            records = torch.empty_like(self.latent, dtype=records.dtype).copy_(records)
            self._quantizer.history = records
        return records

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
        return self.shaped(self.emitted()).to(torch.int8)

    @torch.no_grad()
    def freeze(self, where: Tensor, codes: Tensor) -> None:
        """Pin codes for good and set the latents to them; what is frozen already stays.

        Args:
            where: bool mask of the latent's shape, or a 1-D int64 index into the flat latent.
            codes: Integers on the grid, of the latent's shape, or one per index.

        Raises:
            ValueError: A code is off the grid. (Not asked on an accelerator, which would wait.)
        """
        grid = self.grid
        if codes.device.type == "cpu" and codes.numel():
            low, high = (int(end) for end in codes.aminmax())
            if low < grid.quant_min or high > grid.quant_max:
                raise ValueError(
                    f"{self.name}: codes must be {grid.quant_min} to {grid.quant_max}, "
                    f"got {low} to {high}"
                )
        self._quantizer.any_frozen = True
        if where.dtype == torch.bool:
            records = self.history
            new = history.freeze(records, codes, self.layout)
            records.copy_(torch.where(where, new, records))
            pinned = self.scale * history.code_of(records, self.layout)
            self.latent.copy_(torch.where(self.frozen, pinned, self.latent))
        else:
            flat = self.records
            flat[where] = history.freeze(flat[where], codes, self.layout)
            latents = flatten(self.latent, storage_order(self.latent))
            latents[where] = self.quantized(where).to(latents.dtype)

    # What follows is for trackers and cures. "Flat" is the order of storage, see `quiesce.flat`.

    @property
    def records(self) -> Tensor:
        """The history, flat: a view."""
        return flatten(self.history, storage_order(self.latent))

    def shaped(self, flat: Tensor) -> Tensor:
        """A flat tensor in the latent's shape."""
        return unflatten(flat, self.latent, storage_order(self.latent))

    @torch.no_grad()
    def rounded(self, where: Where = slice(None)) -> Tensor:
        """Codes of the latents as if nothing were frozen: integral floats, flat."""
        latent = flatten(self.latent, storage_order(self.latent))[where]
        return passes.rounded(self._operands(latent, self._scale_at(where), self.records[where]))

    @torch.no_grad()
    def emitted(self, where: Where = slice(None)) -> Tensor:
        """`codes`, flat and as integral floats, of the selected weights."""
        records = self.records[where]
        pinned = history.code_of(records, self.layout)
        return torch.where(history.is_frozen(records, self.layout), pinned, self.rounded(where))

    @torch.no_grad()
    def quantized(self, where: Where = slice(None)) -> Tensor:
        """Scale * code, flat, of the selected weights."""
        return self._scale_at(where) * self.emitted(where)

    @torch.no_grad()
    def settle(self, *, pin: bool = False) -> Tensor:
        """Put latents of frozen weights back on their code; say whose history is out of date.

        The pin, once more after every optimizer step: so that momentum, weight decay, stripping,
        folding and export can not lose a code.

        Args:
            pin: Write the latents even where it is known that none is frozen. (On an accelerator
                it is not known, since asking would wait.)

        Returns:
            uint8, flat, 0 or 1.
        """
        pin = pin or self._quantizer.any_frozen or self.latent.device.type != "cpu"
        return self._pass(passes.settle if pin else passes.out_of_date).view(-1)

    @torch.no_grad()
    def pin(self) -> None:
        """The first half of `settle` alone."""
        if self._quantizer.any_frozen or self.latent.device.type != "cpu":
            self._pass(passes.settle)

    @torch.no_grad()
    def track(
        self, frequency: Tensor, average: Tensor | None, event: Tensor, entry: Tensor
    ) -> Tensor:
        """One tracker step over all of this weight, see `passes.track`; `frequency` is flat."""
        rows = self._rows()
        if rows.dim() == 2:
            frequency = frequency.view(len(rows), -1)
            average = None if average is None else average.view(len(rows), -1)
        frequency = frequency.detach()
        average = None if average is None else average.detach()
        return self._pass(passes.track, frequency, average, event, entry)

    @torch.no_grad()
    def pull(self) -> Tensor:
        """Dampening's sum of squared residuals over this weight: a scalar."""
        return self._pass(passes.pull)

    @torch.no_grad()
    def pull_gradient(self, factor: Tensor) -> Tensor:
        """`factor` (a scalar) times the residual: of the latent's shape and dtype."""
        return self.shaped(self._pass(passes.pull_gradient, factor).view(-1))

    def _pass(self, function: Callable[..., Tensor], *args: Tensor | None) -> Tensor:
        latent = flatten(self.latent, storage_order(self.latent))
        records, scale = self.records, self._rows()
        if scale.dim() == 2:
            latent = latent.view(len(scale), -1).detach()
            records = records.view(len(scale), -1).detach()
        operands = self._operands(latent, scale, records)
        return self._quantizer.kernels.over_weight(function, operands, *args)

    def _operands(self, latent: Tensor, scale: Tensor, records: Tensor) -> passes.Operands:
        quantizer = self._quantizer
        return passes.Operands(latent, scale, quantizer.limits, records, quantizer.rule.estimator)

    def _rows(self) -> Tensor:
        """The scale as it broadcasts to the flat latent: (), (channels, 1) or (elements,)."""
        scale, order = self.scale, storage_order(self.latent)
        if scale.numel() == 1:
            return scale.reshape(()).detach()
        if outermost_first(order) and len(scale) == scale.numel():
            return scale.reshape(-1, 1).detach()
        return flatten(scale.expand_as(self.latent), order)

    def _scale_at(self, where: Where) -> Tensor:
        scale = self._rows()
        if scale.dim() == 0:
            return scale
        if scale.dim() == 1:
            return scale[where]
        per_channel = self.latent.numel() // len(scale)
        if isinstance(where, slice):
            return scale.expand(-1, per_channel).reshape(-1)[where]
        return scale.view(-1)[where // per_channel]
