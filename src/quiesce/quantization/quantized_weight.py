"""The interface through which trackers, cures and reports access a weight.

They use only `QuantizedWeight`, not modules or quantizers. This class is the interface, and its
implementation for the layers of quiesce. `quiesce.stacks` implements it for other toolkits, whose
weights have a copy, `held`, that passes read and write; `begin_step` and `write_back` keep both
equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.weight_history import Layout
from quiesce.errors import PrepareError, TrackingError
from quiesce.parallel.split_weights import Shards, is_split, local
from quiesce.quantization.kinds import Kind, layer_kind

if TYPE_CHECKING:
    from quiesce.arithmetic.estimators import Estimator
    from quiesce.arithmetic.kernels import Kernels
    from quiesce.arithmetic.scale_formats import ScaleFormat
    from quiesce.quantization.quantizer import FakeQuantizer


OUTGROWN = 1.5
"""Factor by which the root mean square of a weight may change before its scale is outdated."""


def root_mean_square(weight: Tensor) -> float:
    """Return the root mean square of all elements of a tensor, or 0 if it is empty."""
    return float(weight.detach().float().norm()) / max(1, weight.numel()) ** 0.5


class QuantizedWeight:
    """A latent weight and the grid that it is rounded to.

    Args:
        name: Name of the module of the parameter.
        latent: The float parameter that the optimizer updates.
        quantizer: Quantizer of the weight.
        module: The layer. Reports use it to determine the layer kind.

    Attributes:
        shards: Sharding of the latent weight over processes, or None. If it is sharded, scale,
            history, codes and frozen mask are those of the part in this process.

    Raises:
        PrepareError: The scale is split over processes.

    Examples:
        >>> [weight] = qs.quantized_weights(layer)  # a QuantizedWeight for each layer
        >>> weight.grid.quant_min, weight.grid.quant_max
        (-4, 3)
        >>> torch.equal(weight.codes() * weight.scale, qs.strip(layer).weight)
        True
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
                f"{name}: its scale is split over processes, but each process needs all of it; "
                "call fully_shard(..., ignored_params=quiesce.keep_whole(model))"
            )

    def __repr__(self) -> str:
        return f"QuantizedWeight({self.name!r}, {tuple(self.latent.shape)}, {self.grid})"

    @property
    def grid(self) -> Grid:
        """The codes and their levels."""
        return self._quantizer.weight_grid

    @property
    def kind(self) -> Kind:
        """Kind of the layer, for reports."""
        return layer_kind(self.module)

    @property
    def layout(self) -> Layout:
        """Layout of the history records."""
        return Layout.of(self.grid)

    @property
    def scale(self) -> Tensor:
        """Floats per code, above 0, detached, broadcastable to the latent weight.

        Raises:
            NotCalibratedError: There is no scale yet.
        """
        if self._quantizer.grid is None:
            raise self._quantizer.not_calibrated()
        return self._part(self._quantizer.expanded(self._quantizer.step_size))

    @property
    def held(self) -> Tensor:
        """What is rounded: the latent weight or its part in this process, sharing memory."""
        return local(self.latent)

    @property
    def is_held(self) -> bool:
        """Whether `held` is the latent weight itself, so that a pass over it can change latents."""
        return True

    @property
    def differentiable(self) -> Tensor:
        """Like `held`, but not detached: gradients flow to the latent weight."""
        return self.latent.to_local() if is_split(self.latent) else self.latent

    @property
    def history(self) -> Tensor:
        """Records of `weight_history`, laid out like the latent weight; edited in place."""
        records = self._quantizer.history
        if records is None:
            raise TypeError(f"{self.name}: this quantizer is for activations, not for a weight")
        if self.shards is not None:
            if not is_split(records):  # the latent weight was split after prepare
                part = self.shards.part(records).clone()
                if part.shape != self.held.shape:  # one row, in another process
                    part = part.new_zeros(self.held.shape)
                records = self.shards.join(part)
                self._quantizer.history = records
            return local(records)
        if records.stride() != self.latent.stride():  # the memory format has changed
            records = torch.empty_like(self.latent, dtype=records.dtype).copy_(records)
            self._quantizer.history = records
        return records

    @history.setter
    def history(self, records: Tensor) -> None:
        """Replace the records by a tensor with the same values, shape and strides."""
        self._quantizer.history = records if self.shards is None else self.shards.join(records)

    @property
    def place(self) -> tuple[object, ...]:
        """Where latents, records and scale are in memory; equal until something replaces them.

        The comparison holds while views of the earlier tensors keep their memory alive.
        """
        held = self.latent if self.shards is None else self.held
        scale = self._quantizer.scale
        return held.data_ptr(), held.stride(), self.history.data_ptr(), scale.data_ptr()

    @property
    def locked(self) -> bool:
        """Whether the user excluded this weight from training, by `requires_grad_(False)`.

        Cures do not change a locked weight.
        """
        return not self.latent.requires_grad

    @property
    def outgrown(self) -> bool:
        """Whether the latents no longer fit the scale, because their magnitude changed too much.

        This happens if float weights are loaded after `prepare`; a few training steps change the
        magnitude less. Always False for a loaded scale and for a weight split over processes.
        """
        before = self._quantizer.measured_on
        if before is None or self.shards is not None or not before:
            return False
        ratio = root_mean_square(self.latent) / before
        return not 1 / OUTGROWN < ratio < OUTGROWN

    @property
    def tracked_by(self) -> object:
        """The only tracker that updates the history."""
        return self._quantizer.tracked_by

    @tracked_by.setter
    def tracked_by(self, owner: object) -> None:
        self._quantizer.tracked_by = owner

    @property
    def frozen(self) -> Tensor:
        """Mask of frozen weights: bool, in the shape of the latent weight."""
        return weight_history.is_frozen(self.history, self.layout)

    @property
    def grid_changes(self) -> int | None:
        """Code changes since the start that the grid alone caused, or None if they are flips.

        The layers of quiesce count them as flips, as the paper does.
        """
        return None

    def begin_step(self) -> None:
        """Read the weight again, before the tracker's pass after an optimizer step.

        Here `held` is the weight itself, so this only checks that it is still the same parameter.

        Raises:
            TrackingError: The parameter has been split over processes, or replaced.
        """
        there = self.module._parameters.get("weight")
        if there is not self.latent and self.shards is None and is_split(there):
            raise TrackingError(
                f"{self.name}: its weight was split over processes after the tracker was made; "
                "call fully_shard first, then create optimizer, tracker and Control"
            )

    def write_back(self) -> None:
        """Write the frozen latents in `held` to the weight, after a pass. Here: nothing to do."""

    def hold_grid(self) -> None:
        """Fix a scale that follows its weight, before codes are frozen. Here: nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is not in the `state_dict` of the model; here it is empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""

    def on_output(self, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Let a function replace the quantized weight in every forward pass.

        Args:
            change: Function of the quantized weight, in the shape of the latent weight.

        Returns:
            A handle; its `remove` ends this.
        """

        def hook(_: nn.Module, __: Any, emitted: Tensor) -> Tensor:
            return change(emitted)

        return self._quantizer.register_forward_hook(hook)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Return the codes in use: int8, in the shape of the latent weight.

        Nothing is changed. A frozen weight has its frozen code.
        """
        return weight_passes.emitted(self._operands()).to(torch.int8)

    @torch.no_grad()
    def quantized(self) -> Tensor:
        """Return scale * code (or level): in the shape of the latent weight, float32 or wider."""
        return weight_passes.quantized(self._operands())

    @torch.no_grad()
    def freeze(self, where: Tensor, codes: Tensor) -> None:
        """Freeze weights and set their latent weights; a weight that is frozen does not change.

        A scale that follows its weight is fixed first, see `hold_grid`.

        Args:
            where: Mask of the weights to freeze: bool, in the shape of the latent weight.
            codes: Their codes: integers on the grid, in the same shape.

        Raises:
            ValueError: A code is outside the grid. Accelerators skip this check, because it would
                synchronise with the host.
        """
        grid = self.grid
        if codes.device.type == "cpu" and codes.numel():
            low, high = (int(end) for end in codes.aminmax())
            if low < grid.quant_min or high > grid.quant_max:
                raise ValueError(
                    f"{self.name}: codes must be {grid.quant_min} to {grid.quant_max}, "
                    f"got {low} to {high}"
                )
        self.hold_grid()
        records = self.history
        pinned = weight_history.freeze(records, codes, self.layout)
        records.copy_(torch.where(where, pinned, records))
        self.pin_latents()

    @torch.no_grad()
    def pin_latents(self) -> None:
        """Set the latents of frozen weights to their quantized values."""
        now = self._operands()
        self.held.copy_(torch.where(self.frozen, weight_passes.quantized(now), self.held))
        self.write_back()

    def _operands(self) -> weight_passes.Operands:
        return weight_passes.Operands(
            self.held, self.scale, self.limits, self.history, self.estimator, self.grid.levels
        )

    # The members below are for `weight_group`, which runs passes over many weights at once.

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that determine the scale, for the optimizer."""
        return (self._quantizer.scale,)

    @property
    def raw_scale(self) -> Tensor:
        """The learned scale in its number format, detached; `scale` is its magnitude.

        One number per tensor, channel or group: with groups (rows, groups), not expanded.
        """
        quantizer = self._quantizer
        part = self._part(quantizer.expanded(quantizer.signed_step_size))
        return part if self.group_size is None else part[..., :: self.group_size]

    @property
    def group_size(self) -> int | None:
        """Number of adjacent weights of a row that share a scale, or None."""
        return self._quantizer.group_size

    @property
    def scale_dtype(self) -> ScaleFormat:
        """The number format of the scales."""
        return self._quantizer.scale_dtype

    @property
    def whole_scale(self) -> Tensor:
        """Like `raw_scale`, but of the whole weight if it is split over processes."""
        return self._quantizer.scale.detach()

    @property
    def limits(self) -> Tensor:
        """The tensor (quant_min, quant_max)."""
        return self._quantizer.limits

    @property
    def estimator(self) -> Estimator:
        """The estimator that rounds."""
        return self._quantizer.rule.estimator

    @property
    def kernels(self) -> Kernels:
        """The kernels that run passes: eager or compiled."""
        return self._quantizer.kernels

    def _part(self, values: Tensor) -> Tensor:
        return values if self.shards is None else self.shards.part(values)
