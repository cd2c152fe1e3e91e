"""A `QuantizedWeight` whose latent weight, grid and rounding belong to another toolkit.

Passes of the tracker and the cures work on `held`, a copy of what the stack rounds, shifted so that
its code is round(held/scale): held = effective + scale * zero_point. History records and `held` are
outside the module tree, and `Control` saves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.estimators import STE, Estimator
from quiesce.arithmetic.fake_quantize import positive
from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.kernels import EAGER, Kernels
from quiesce.arithmetic.scale_formats import ScaleFormat
from quiesce.errors import AttachError, DivergedError, TrackingError
from quiesce.quantization.kinds import Kind
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.stacks import frozen_hooks
from quiesce.stacks.site import FrozenOutput, Site

_INSIDE = 0.5 - 2.0**-10
"""Where a weight is put that this file and its stack would round to different sides of a tie."""


class _Affine(NamedTuple):
    """How a latent weight becomes a code: round(latent * fold / scale + zero_point)."""

    scale: Tensor
    zero_point: Tensor
    fold: Tensor | None

    def same(self, other: _Affine) -> bool:
        pairs = zip(self, other, strict=True)
        return all(
            a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs
        )


class AttachedWeight(QuantizedWeight):
    """One weight of another toolkit.

    Args:
        site: The weight in its stack.

    Raises:
        AttachError: The weight is split over processes, or has no hook for frozen codes.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.name, self.module, self.latent = site.name, site.module, site.latent
        self.shards = None
        self._grid = site.grid
        self._tracked_by: object = None
        self._kernels = EAGER
        self._parameters = site.scale_parameters
        self._limits = torch.tensor(
            [self._grid.quant_min, self._grid.quant_max],
            dtype=torch.float32,
            device=self.latent.device,
        )
        wide = torch.promote_types(self.latent.dtype, torch.float32)
        self._held = torch.empty_like(self.latent, dtype=wide, requires_grad=False)
        self._history = torch.zeros_like(self.latent, dtype=self.layout.dtype, requires_grad=False)
        self._recorded: _Affine | None = None  # of the codes in the records
        self._grid_changes = torch.zeros((), dtype=torch.int64, device=self.latent.device)
        self._kept: tuple[Tensor, ...] | None = None  # by `hold_grid`
        self._dtype = self.latent.dtype
        self.refresh()
        self._output = FrozenOutput(self._history, self.layout)
        self._handle = frozen_hooks.install(site, self._output)

    @property
    def grid(self) -> Grid:
        """The integers of the codes."""
        return self._grid

    @property
    def kind(self) -> Kind:
        """Kind of the layer, for reports."""
        return self.site.kind

    @property
    def scale(self) -> Tensor:
        """Floats per code, above 0, as of the last step or `refresh`."""
        return self._affine.scale

    @property
    def held(self) -> Tensor:
        """What is rounded, plus scale * zero_point; a copy, see `refresh` and `write_back`."""
        return self._held

    @property
    def is_held(self) -> bool:
        """False: `held` is a copy, from which only frozen codes are written back."""
        return False

    @property
    def differentiable(self) -> Tensor:
        """Like `held`; gradients flow to the latent weight."""
        if self.latent._version != self._seen:
            self.refresh()
        return _Held.apply(self.latent, self._held, self._affine.fold)  # pyright: ignore

    @property
    def history(self) -> Tensor:
        """Records of `weight_history`, laid out like the latent weight; edited in place."""
        return self._history

    @history.setter
    def history(self, records: Tensor) -> None:
        """Replace the records by a tensor with the same values, shape and strides."""
        self._history = self._output.records = records

    @property
    def place(self) -> tuple[object, ...]:
        """Where latents, records and scale are in memory."""
        return self._held.data_ptr(), self._history.data_ptr(), self._affine.scale.data_ptr()

    @property
    def outgrown(self) -> bool:
        """Return False: scales of other toolkits are their own business."""
        return False

    @property
    def tracked_by(self) -> object:
        """The only tracker that updates the history."""
        return self._tracked_by

    @tracked_by.setter
    def tracked_by(self, owner: object) -> None:
        self._tracked_by, self._recorded = owner, None
        self._grid_changes.zero_()

    @property
    def grid_changes(self) -> int:
        """Code changes since the start that the grid alone caused."""
        return int(self._grid_changes)

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that determine the scale; none if it is not learned."""
        return self._parameters

    @property
    def raw_scale(self) -> Tensor:
        """The same as `scale`."""
        return self._affine.scale

    @property
    def group_size(self) -> None:
        """Return None: scales of groups are expanded to their weights."""
        return None

    @property
    def scale_dtype(self) -> ScaleFormat:
        """The number format in which quiesce reads the scales."""
        return "float32"

    @property
    def whole_scale(self) -> Tensor:
        """The same as `scale`."""
        return self._affine.scale

    @property
    def limits(self) -> Tensor:
        """The tensor (quant_min, quant_max)."""
        return self._limits

    @property
    def estimator(self) -> Estimator:
        """Rounding to nearest; `held` is such that this gives the codes of the stack."""
        return STE()

    @property
    def kernels(self) -> Kernels:
        """The kernels that run passes: eager or compiled."""
        return self._kernels

    @kernels.setter
    def kernels(self, kernels: Kernels) -> None:
        self._kernels = kernels

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the weight from the stack, as its next forward pass will use it.

        Raises:
            DivergedError: A scale is negative, or a number is not finite.
        """
        now = self.site.read()
        wide = self._held.dtype
        scale, zero_point = now.scale.to(wide), now.zero_point.to(wide)
        if not bool((scale >= 0).all()):
            raise DivergedError(
                f"{self.name}: a scale is negative or not a number, so its codes mean nothing; "
                "lower the learning rate of the scales, and give them no weight decay"
            )
        self._affine = _Affine(positive(scale), zero_point.clone(), now.fold)
        scale, low, high = self._affine.scale, self._grid.quant_min, self._grid.quant_max
        self._held.copy_(now.effective)
        if bool(zero_point.any()):
            self._held += scale * zero_point
        codes = now.codes.to(wide)
        rounded = torch.div(self._held, scale).round_().clamp_(low, high)
        if not torch.equal(rounded, codes):
            if not bool(self._held.isfinite().all()):
                raise DivergedError(
                    f"{self.name}: a weight is not finite; quiesce.Watch stops a training before"
                )
            inside = codes + _INSIDE * torch.sign(self._held / scale - codes)
            self._held.copy_(torch.where(rounded != codes, scale * inside, self._held))
        self._seen = self.latent._version

    def begin_step(self) -> None:
        """Read the weight, and take what the grid alone changed into the history.

        Raises:
            TrackingError: The weight or a scale is another parameter, or on another device.
        """
        self._check_current()
        self.site.agree()
        self.refresh()
        recorded, self._recorded = self._recorded, self._affine
        if recorded is not None and not recorded.same(self._affine):
            self._follow_grid(recorded)

    @torch.no_grad()
    def _follow_grid(self, before: _Affine) -> None:
        """Move recorded codes by what the grid did to the weight: from its old to its new grid."""
        layout = self.layout
        low, high = self._grid.quant_min, self._grid.quant_max
        now = torch.round(self._held / self._affine.scale).clamp(low, high)
        recorded = weight_history.code_of(self._history, layout)
        stale = (now != recorded) & ~weight_history.is_frozen(self._history, layout)
        if not bool(stale.any()):
            return
        latent = self.latent.detach()[stale].to(now.dtype)
        if before.fold is not None:
            latent = latent * before.fold.expand_as(now)[stale]
        scale, zero_point = (each.expand_as(now)[stale] for each in before[:2])
        jump = now[stale] - torch.round(latent / scale + zero_point).clamp(low, high)
        records = self._history[stale]
        direction = weight_history.direction_of(records, layout)
        moved = (recorded[stale] + jump).clamp(low, high)
        self._history[stale] = weight_history.pack(moved, direction, False, layout)
        self._grid_changes += (jump != 0).sum()

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the values of frozen codes to the latent weight, in place."""
        frozen = self.frozen
        if not bool(frozen.any()):
            return
        values = self._values(weight_history.code_of(self._history, self.layout))
        if (fold := self._affine.fold) is not None:
            frozen = frozen & (fold != 0)
            values = values / torch.where(fold == 0, 1, fold)
        self.site.write(torch.where(frozen, values.to(self.latent.dtype), self.latent))
        self._seen = self.latent._version

    def hold_grid(self) -> None:
        """Fix the scale if the stack computes it from the weight."""
        if self.site.follows_weight and self._kept is None:
            self._kept = self.site.hold()

    def state_dict(self) -> dict[str, Any]:
        """Return history records, the grid that they belong to, and a held scale."""
        scale, zero_point, fold = self._recorded or self._affine
        return {
            "history": self._history.clone(),
            "recorded": self._recorded is not None,
            "scale": scale.clone(),
            "zero_point": zero_point.clone(),
            "fold": None if fold is None else fold.clone(),
            "grid_changes": self.grid_changes,
            "kept": self._kept and tuple(each.clone() for each in self._kept),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`, after the state of the model.

        Raises:
            TrackingError: The state has no such weight, or one of another shape.
        """
        if state.get("history", self._history[:0]).shape != self._history.shape:
            raise TrackingError(
                f"the saved control has no history of {self.name} in the shape "
                f"{tuple(self._history.shape)}; attach to the same model as when it was saved"
            )
        self._history.copy_(state["history"])
        at, fold = self.latent.device, state["fold"]
        saved = _Affine(
            state["scale"].to(at), state["zero_point"].to(at), None if fold is None else fold.to(at)
        )
        self._grid_changes.fill_(state["grid_changes"])
        if state["kept"] is not None:
            self._kept = self.site.hold(tuple(each.to(at) for each in state["kept"]))
        self.refresh()
        self._recorded = saved if state["recorded"] else None

    def on_output(self, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Let a function replace the quantized weight, shifted like `held`, in forward passes.

        Raises:
            AttachError: The stack has no place for a hook.
        """

        def shifted(value: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
            shift = scale * zero_point
            return change(value + shift) - shift

        handle = self.site.on_output(shifted)
        if handle is None:
            raise AttachError(f"{self.name}: its toolkit has no hook for quantized weights")
        return handle

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Return the codes of the next forward pass, in the shape of the latent weight.

        int8, or int16 for grids above 127. Nothing is changed.
        """
        dtype = torch.int8 if self._grid.quant_max < 2**7 else torch.int16
        pinned = weight_history.code_of(self._history, self.layout)
        return torch.where(self.frozen, pinned, self.site.read().codes).to(dtype)

    @torch.no_grad()
    def quantized(self) -> Tensor:
        """Return scale * (code - zero_point): in the shape of the latent weight, float32."""
        return self._values(self.codes())

    def release(self) -> None:
        """Remove the hook for frozen codes; the latents of frozen weights keep their codes."""
        self.refresh()
        self.write_back()
        if self._handle is not None:
            frozen_hooks.remove(self.site, self._handle)
            self._handle = None

    def _values(self, codes: Tensor) -> Tensor:
        return self._affine.scale * (codes - self._affine.zero_point)

    def _check_current(self) -> None:
        there = self.site.latent
        scales = [id(each) for each in self.site.scale_parameters]
        if there is not self.latent or scales != [id(each) for each in self._parameters]:
            what = "weight" if there is not self.latent else "scale"
            raise TrackingError(
                f"{self.name}: its {what} is another parameter now than when it was attached, so "
                "the optimizer may update one that is no longer used. Load state first; then "
                "make the optimizer, and call quiesce.attach"
            )
        if there.device != self._held.device or there.dtype != self._dtype:
            raise TrackingError(
                f"{self.name}: the weight was {self._dtype} on {self._held.device} when it was "
                f"attached and is {there.dtype} on {there.device} now; move the model first"
            )


class _Held(torch.autograd.Function):
    """The latent weight in the form of `held`."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, held: Tensor, fold: Tensor | None) -> Tensor:
        ctx.fold, ctx.dtype = fold, latent.dtype
        return held.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0] if ctx.fold is None else grads[0] * ctx.fold
        return grad.to(ctx.dtype), None, None
