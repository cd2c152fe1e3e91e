"""The fake quantizer module: grid, learned scale and history records.

The ends of the grid and the records are integers, which have no meaningful average. Weight
averaging (EMA, SWA) averages all buffers of a model and all tensors of its `state_dict`. Therefore
these integers are not buffers, and a `state_dict` holds copies of them. They are moved, loaded and
copied with the module like buffers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.arithmetic.estimators import STE, Estimator
from quiesce.arithmetic.fake_quantize import (
    Clip,
    FakeQuantize,
    Rule,
    check_clip,
    lsq_grad_scale,
    positive,
)
from quiesce.arithmetic.grid import Grid, check_bits
from quiesce.arithmetic.kernels import EAGER
from quiesce.arithmetic.ranges import Range, check_range
from quiesce.arithmetic.scale_formats import ScaleFormat, check_scale_format, in_format
from quiesce.arithmetic.weight_history import STILL, Layout, is_frozen, pack
from quiesce.errors import NotCalibratedError, PrepareError, TrackingError


def forget_scales(owner: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Reset the quantizers of a layer or block if float weights are loaded into it.

    A checkpoint of a quantized layer contains scales. A checkpoint without the layer, such as that
    of a backbone for another head, changes nothing.
    """
    mine = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
    for name, quantizer in owner.named_modules():
        if isinstance(quantizer, FakeQuantizer) and mine:
            known = any(key.startswith(f"{name}.") for key in mine)
            if not known and name.split(".")[0] in _PARTS:
                quantizer.forget()


_PARTS = ("weight_quantizer", "input_quantizer", "additions")
"""Children of layers and blocks that contain quantizers."""


class FakeQuantizer(nn.Module):
    """Rounds its input to a grid with a learned scale (LSQ) and optionally a learned offset (LSQ+).

    A grid and a scale must be set before use. Parameters: `scale`, and `offset` if it is learned.
    Integers: `limits` (2,), the ends of the grid, or (0, 0) without a grid; for weights `history`,
    one packed record per weight (see `weight_history`), and `levels`, if they are not integers. The
    history exists from the start, so that a compiled forward pass reads what freezing writes later.

    Args:
        bits: Bits of the codes, 2 to 8, or the grid of a weight.
        scale_shape: () for one scale, or a shape that broadcasts to the tensor. With `group_size`,
            (..., groups) for a tensor (..., groups * group_size).
        weight: The latent weight to quantize, or None for activations.
        group_size: Number of adjacent weights in the last dimension that share a scale, or None.
        scale_dtype: Number format of the scales in use, see `quiesce.arithmetic.scale_formats`.
        learn_offset: Also learn the value of code 0 (LSQ+). For activations only.
        clip: Rule for gradients at the ends of the grid, see `quiesce.fake_quantize`.
        grad_scaling: Multiply the gradients of scale and offset by 1/sqrt(N*quant_max) as in LSQ,
            with N the number of weights that share a scale, or of features of one sample.
        estimator: Rounding and its gradient.
        ranges: Method of `calibrate` for the initial scale.

    Raises:
        ValueError, TypeError: An argument is out of range.

    Examples:
        >>> quantizer = qs.FakeQuantizer(3)
        >>> quantizer.set_grid(qs.Grid(3, signed=True), torch.tensor(0.5))
        >>> quantizer(torch.tensor([0.3, 9.0])).tolist()
        [0.5, 1.5]
    """

    scale: nn.Parameter
    offset: nn.Parameter | None
    limits: Tensor
    history: Tensor | None

    def __init__(
        self,
        bits: int | Grid,
        *,
        scale_shape: tuple[int, ...] = (),
        weight: Tensor | None = None,
        group_size: int | None = None,
        scale_dtype: ScaleFormat = "float32",
        learn_offset: bool = False,
        clip: Clip = "range",
        grad_scaling: bool = False,
        estimator: Estimator = STE(),  # noqa: B008 (immutable)
        ranges: Range = "mse",
    ) -> None:
        super().__init__()
        if isinstance(bits, Grid):
            self.weight_grid, bits = bits, bits.bits
        else:
            check_bits("bits", bits)
            self.weight_grid = Grid(bits, signed=True)
        check_clip(clip)
        check_range(ranges)
        check_scale_format(scale_dtype)
        self.bits = bits
        self.group_size = group_size
        self.scale_dtype: ScaleFormat = scale_dtype
        self.name = ""
        self.grid: Grid | None = None
        self.grad_scaling = grad_scaling
        self.ranges: Range = ranges
        self.kernels = EAGER
        self.observe: Callable[[Tensor], object] | None = None
        self.tracked_by: object = None
        self.measured_on: float | None = None  # RMS of the weight that determined the scale
        self.scale = nn.Parameter(torch.ones(scale_shape))
        self.offset = nn.Parameter(torch.zeros(scale_shape)) if learn_offset else None
        self.limits = torch.zeros(2)
        self.history = None
        self.levels: Tensor | None = None
        if weight is not None:
            dtype = Layout.of(self.weight_grid).dtype
            if levels := self.weight_grid.levels.values:
                self.levels = torch.tensor(levels)
            self.history = torch.zeros_like(weight, dtype=dtype, requires_grad=False)
        self.rule = Rule(clip, estimator, self.weight_grid.levels)

    def set_grid(self, grid: Grid, scale: Tensor, offset: Tensor | None = None) -> None:
        """Set the grid; `scale` and `offset` have the units of x and the declared shapes."""
        with torch.no_grad():
            self.scale.copy_(scale.reshape(self.scale.shape))
            if self.offset is not None:
                self.offset.copy_(torch.zeros(()) if offset is None else offset)
            self.limits.copy_(torch.tensor([grid.quant_min, grid.quant_max]))
        self.grid = grid
        self.measured_on = None

    @property
    def step_size(self) -> Tensor:
        """The scale in use, detached: floats per code, above 0, in the shape of the parameter."""
        return positive(self.signed_step_size)

    @property
    def signed_step_size(self) -> Tensor:
        """Like `step_size`, with the sign of the learned scale."""
        return in_format(self.scale.detach(), self.scale_dtype)

    def expanded(self, scale: Tensor) -> Tensor:
        """Return values in the shape of the scale as a tensor that broadcasts to the weight."""
        return scale if self.group_size is None else scale.repeat_interleave(self.group_size, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x`; shape and dtype do not change.

        Raises:
            NotCalibratedError: There is no grid yet.
            TrackingError: In training, the estimator needs the codes of the last step, and no
                tracker records them.
        """
        if self.observe is not None:
            self.observe(x)
            return x
        if self.grid is None:
            raise self.not_calibrated()
        scale, history = in_format(self.scale, self.scale_dtype), self.history
        locked = self._locked(x)
        if locked:
            scale = scale.detach()
        if self.group_size is not None:
            scale, x = scale.unsqueeze(-1), x.unflatten(-1, (-1, self.group_size))
            history = None if history is None else history.unflatten(-1, (-1, self.group_size))
        noise = None if locked else self._noise(x)
        self._check_tracked()
        # a compiled model fuses the plain operators across layers; fused passes take no noise
        plain = torch.compiler.is_compiling() or noise is not None
        kernels = EAGER if plain else self.kernels
        out: Tensor = FakeQuantize.apply(  # pyright: ignore[reportAssignmentType]
            x,
            scale,
            self.offset,
            self.limits,
            history,
            noise,
            self.rule,
            self._grad_scale(x),
            kernels.forward,
            kernels.backward,
        )
        return out if self.group_size is None else out.flatten(-2)

    def not_calibrated(self) -> NotCalibratedError:
        """Return the error for a quantizer without a scale."""
        advice = "call quiesce.calibrate(model, batches) first"
        if self.history is not None:
            advice += ", or quiesce.measure_weights(model) if float weights were loaded into it"
        return NotCalibratedError(f"{self.name or 'a quantizer'} has no scale yet; {advice}")

    @torch.no_grad()
    def remember(self, latent: Tensor) -> None:
        """Initialise the history of a weight from the codes nearest to `latent`, unless frozen.

        Do nothing if the estimator does not read the history; a tracker initialises it in any case.
        """
        if self.history is None or self.grid is None or not self.rule.estimator.needs_history:
            return
        layout = Layout.of(self.grid)
        wide = latent.to(torch.promote_types(latent.dtype, torch.float32))
        step = self.expanded(self.step_size)
        fresh = pack(self.grid.codes(wide, step), STILL, False, layout)
        self.history.copy_(torch.where(is_frozen(self.history, layout), self.history, fresh))

    def _locked(self, x: Tensor) -> bool:
        """Return whether `x` is a weight excluded from training; its scale is then fixed too."""
        return self.history is not None and isinstance(x, nn.Parameter) and not x.requires_grad

    def _noise(self, x: Tensor) -> Tensor | None:
        if not (self.training and self.rule.estimator.needs_noise):
            return None
        return torch.rand_like(x, dtype=torch.promote_types(x.dtype, torch.float32))

    def _check_tracked(self) -> None:
        reads = self.rule.estimator.needs_history and self.history is not None
        if reads and self.training and self.tracked_by is None:
            raise TrackingError(
                f"{self.name}: {type(self.rule.estimator).__name__} reads the code of the last "
                "step, which nothing records; create a quiesce.Control before the first step"
            )

    def _grad_scale(self, x: Tensor) -> float | None:
        if not self.grad_scaling or self.grid is None or not x.numel():
            return None
        shared_by = x.shape[0] if self.history is None else self.scale.numel()
        return lsq_grad_scale(x.numel() // shared_by, self.grid)

    @torch.no_grad()
    def copy_integers(self, source: "FakeQuantizer") -> None:
        """Copy grid and history records from a quantizer of the same kind."""
        self.grid = source.grid
        for (_, mine), (_, theirs) in zip(self._integers(), source._integers(), strict=True):
            mine.copy_(theirs)

    def _integers(self) -> Iterator[tuple[str, Tensor]]:
        yield "limits", self.limits
        if self.history is not None:
            yield "history", self.history
        if self.levels is not None:
            yield "levels", self.levels

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers and, if called on the quantizer itself, the integers.

        FSDP2 and torch.distributed.checkpoint call this on each module. A call on the whole model
        does not list the integers.
        """
        prefix = str(args[0] if args else options.get("prefix", ""))
        mine = ((f"{prefix}.{name}" if prefix else name, v) for name, v in self._integers())
        return chain(super().named_buffers(*args, **options), mine)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FakeQuantizer":
        super()._apply(fn, recurse)
        for name, values in list(self._integers()):
            setattr(self, name, fn(values))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold; a tracker keeps the records of layers together."""
        history = None if self.history is None else self.history.clone()
        return {**self.__dict__, "history": history}

    def _replicate_for_data_parallel(self) -> "FakeQuantizer":
        """Refuse nn.DataParallel, whose copies on other devices would not get new codes."""
        raise PrepareError(
            "nn.DataParallel does not support quantized layers; train with "
            "DistributedDataParallel, one process per device (docs/how-to/cluster.md)"
        )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, values in self._integers():
            destination[prefix + name] = values.detach().clone()

    def forget(self) -> None:
        """Reset grid and frozen codes to the state before calibration."""
        self.limits.zero_()
        self.grid = None
        if self.history is not None:
            self.history.zero_()

    def extra_repr(self) -> str:
        """Return bits, kind of grid, and number of scales."""
        kind = "no grid yet" if self.grid is None else "signed" if self.grid.signed else "unsigned"
        kind = kind if self.levels is None else f"levels={self.weight_grid.levels.values}"
        parts = [f"bits={self.bits}", kind, f"scales={self.scale.numel()}"]
        parts += [] if self.group_size is None else [f"group_size={self.group_size}"]
        parts += [] if self.scale_dtype == "float32" else [f"scale_dtype={self.scale_dtype}"]
        return ", ".join(parts)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Read the grid from `limits`; a checkpoint without this quantizer changes nothing."""
        if not any(key.startswith(prefix) for key in state_dict):
            return
        integers = {prefix + name: (name, values) for name, values in self._integers()}
        others = {key: value for key, value in state_dict.items() if key not in integers}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for key, (name, values) in integers.items():
            saved = state_dict.get(key)
            if saved is None:
                missing_keys.append(key)
            elif saved.shape != values.shape:
                shapes = f"{tuple(saved.shape)} in the checkpoint, {tuple(values.shape)} here"
                error_msgs.append(f"size mismatch for {key}: {shapes}")
            elif name == "levels" and not torch.allclose(saved.to(values), values, rtol=0.01):
                error_msgs.append(f"{key}: the checkpoint has the levels {saved.tolist()}")
            elif local_metadata.get("assign_to_params_buffers", False):
                setattr(self, name, saved.detach().clone())
            else:
                with torch.no_grad():
                    values.copy_(saved)
        self.grid = self.measured_on = None
        low, high = (int(end) for end in self.limits.tolist())
        if (low, high) == (0, 0):
            return
        grid = self.weight_grid if self.history is not None else Grid(self.bits, signed=low < 0)
        if (grid.quant_min, grid.quant_max) != (low, high):
            error_msgs.append(
                f"{prefix}limits: the codes of the checkpoint are {low} to {high}, but this model "
                f"is prepared for {self.bits} bits; prepare it with the scheme of the checkpoint"
            )
            return
        self.grid = grid


@contextmanager
def observed(observers: Mapping[FakeQuantizer, Callable[[Tensor], object]]) -> Iterator[None]:
    """Within the block, pass quantizer inputs to observers and return them unchanged."""
    try:
        for quantizer, observe in observers.items():
            quantizer.observe = observe
        yield
    finally:
        for quantizer in observers:
            quantizer.observe = None


def unobserved(_: Tensor) -> None:
    """Ignore the input; this is an observer that records nothing."""
