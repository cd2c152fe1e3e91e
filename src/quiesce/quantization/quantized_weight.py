"""The one view through which trackers, cures and reports see a weight.

Everything above this file knows only `QuantizedWeight`, and nothing of modules or quantizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.weight_history import Layout
from quiesce.errors import PrepareError, TrackingError
from quiesce.parallel.split_weights import Shards, is_split, local

if TYPE_CHECKING:
    from quiesce.arithmetic.estimators import Estimator
    from quiesce.arithmetic.kernels import Kernels
    from quiesce.quantization.quantizer import FakeQuantizer


class QuantizedWeight:
    """A latent weight together with the grid that it is rounded to.

    Args:
        name: Name of the parameter's module in the model.
        latent: The float parameter that the optimizer moves.
        quantizer: Its quantizer.
        module: The layer whose weight it is; reports read its kind.

    Attributes:
        shards: How the latent is split over processes, or None. Where it is, scale, history, codes
            and frozen mask are those of the part held here, in its shape.

    Raises:
        PrepareError: Its scale is split over processes.
    """

    def __init__(
        self, name: str, latent: nn.Parameter, quantizer: FakeQuantizer, module: nn.Module
    ) -> None:
        self.name = name
        self.latent = latent
        self.module = module
        self._quantizer = quantizer
        self.shards = Shards(latent) if is_split(latent) else None
        if is_split(quantizer.scale):
            raise PrepareError(
                f"{name}: its scale is split over processes, and each needs it whole; call "
                "fully_shard(..., ignored_params=quiesce.keep_whole(model))"
            )

    def __repr__(self) -> str:
        return f"QuantizedWeight({self.name!r}, {tuple(self.latent.shape)}, {self.grid})"

    @property
    def grid(self) -> Grid:
        """The integers that a code can be."""
        return Grid(self._quantizer.bits, signed=True)

    @property
    def layout(self) -> Layout:
        """How the history records are packed."""
        return Layout.of(self.grid)

    @property
    def scale(self) -> Tensor:
        """Floats per code, above 0, detached, broadcastable to the latent.

        Raises:
            NotCalibratedError: It has not been found yet.
        """
        if self._quantizer.grid is None:
            raise self._quantizer.not_calibrated()
        return self._part(self._quantizer.step_size)

    @property
    def held(self) -> Tensor:
        """The latent, detached, or the part of it that this process holds; it shares memory."""
        return local(self.latent)

    @property
    def differentiable(self) -> Tensor:
        """The same, attached: a gradient reaches the latent through it."""
        return self.latent.to_local() if is_split(self.latent) else self.latent

    @property
    def history(self) -> Tensor:
        """Records of `weight_history`, the latent's shape and strides; edited in place."""
        records = self._quantizer.history
        if records is None:
            raise TypeError(f"{self.name}: this quantizer was made for activations, not a weight")
        if self.shards is not None:
            if not is_split(records):  # the latent was split since the model was prepared
                part = self.shards.part(records).clone()
                if part.shape != self.held.shape:  # one row, which another process holds
                    part = part.new_zeros(self.held.shape)
                records = self.shards.join(part)
                self._quantizer.history = records
            return local(records)
        if records.stride() != self.latent.stride():  # the latent has changed its memory format
            records = torch.empty_like(self.latent, dtype=records.dtype).copy_(records)
            self._quantizer.history = records
        return records

    @property
    def locked(self) -> bool:
        """Whether the user keeps this weight from training, by `requires_grad_(False)`.

        A locked weight keeps its latents, scale and codes, and cures leave it alone.
        """
        return not self.latent.requires_grad

    @property
    def tracked_by(self) -> object:
        """The tracker that keeps the history up to date; there can be one at a time."""
        return self._quantizer.tracked_by

    @tracked_by.setter
    def tracked_by(self, owner: object) -> None:
        self._quantizer.tracked_by = owner

    @property
    def frozen(self) -> Tensor:
        """Which codes are pinned: bool, the latent's shape."""
        return weight_history.is_frozen(self.history, self.layout)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Return the integers that the network computes with now: int8, the latent's shape.

        This changes nothing. A frozen weight has its pinned code, whatever its latent is.
        """
        return weight_passes.emitted(self._operands()).to(torch.int8)

    @torch.no_grad()
    def quantized(self) -> Tensor:
        """Return scale * code: the latent's shape, float32 or wider."""
        return weight_passes.quantized(self._operands())

    @torch.no_grad()
    def freeze(self, where: Tensor, codes: Tensor) -> None:
        """Pin codes for good and set the latents to them; a frozen weight stays as it is.

        Args:
            where: bool mask of the latent's shape.
            codes: Integers on the grid, of the latent's shape.

        Raises:
            ValueError: A code is off the grid. (Not checked on an accelerator, where the host would
                have to wait.)
        """
        grid = self.grid
        if codes.device.type == "cpu" and codes.numel():
            low, high = (int(end) for end in codes.aminmax())
            if low < grid.quant_min or high > grid.quant_max:
                raise ValueError(
                    f"{self.name}: codes must be {grid.quant_min} to {grid.quant_max}, "
                    f"got {low} to {high}"
                )
        records = self.history
        pinned = weight_history.freeze(records, codes, self.layout)
        records.copy_(torch.where(where, pinned, records))
        self.pin_latents()

    @torch.no_grad()
    def pin_latents(self) -> None:
        """Set the latents of frozen weights to scale * code."""
        self.held.copy_(torch.where(self.frozen, self.quantized(), self.held))

    def _operands(self) -> weight_passes.Operands:
        return weight_passes.Operands(
            self.held, self.scale, self.limits, self.history, self.estimator
        )

    # What follows serves `weight_group`, which runs passes over many weights at once.

    @property
    def scale_parameter(self) -> nn.Parameter:
        """The scale as the optimizer moves it."""
        return self._quantizer.scale

    @property
    def raw_scale(self) -> Tensor:
        """The learned scale, detached; `scale` is its magnitude."""
        return self._part(self._quantizer.scale.detach())

    @property
    def whole_scale(self) -> Tensor:
        """The same for the whole weight, if it is split over processes."""
        return self._quantizer.scale.detach()

    @property
    def limits(self) -> Tensor:
        """(quant_min, quant_max) as a tensor."""
        return self._quantizer.limits

    @property
    def estimator(self) -> Estimator:
        """The estimator whose rounding decides the codes."""
        return self._quantizer.rule.estimator

    @property
    def kernels(self) -> Kernels:
        """How passes run: operator by operator, or compiled."""
        return self._quantizer.kernels

    def check_current(self) -> None:
        """Refuse to go on if the parameter has been split over processes since this was made.

        Raises:
            TrackingError: It has been split.
        """
        if self.shards is None and is_split(self.module._parameters.get("weight")):
            raise TrackingError(
                f"{self.name}: its weight was split over processes after the tracker was made; "
                "call fully_shard first, then make optimizer, tracker and Control"
            )

    def _part(self, values: Tensor) -> Tensor:
        return values if self.shards is None else self.shards.part(values)
