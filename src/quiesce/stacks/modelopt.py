"""NVIDIA ModelOpt (`mtq.quantize`): integer weights with a fixed range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from modelopt.torch.quantization.nn import (  # pyright: ignore[reportMissingImports]
    QuantModule,
    TensorQuantizer,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError, NotCalibratedError
from quiesce.parallel.wrappers import named_modules
from quiesce.stacks.site import Change, Reading, Site, codes_of, over_blocks

_SUFFIX = "_quantizer"


def sites(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
    """Yield the weights whose quantizer is enabled.

    Raises:
        AttachError: A quantizer is of another kind.
        NotCalibratedError: A range has no value yet.
    """
    layers: Any = named_modules(model)
    for name, module in layers:
        if not isinstance(module, QuantModule) or not wanted(name):
            continue
        for child, quantizer in module.named_children():
            parameter = child.removesuffix(_SUFFIX)
            if child.endswith(f"weight{_SUFFIX}") and parameter in module._parameters:
                if not isinstance(quantizer, TensorQuantizer) or quantizer.is_enabled:
                    alone = parameter == "weight"
                    yield ModelOptWeight(
                        name if alone else f"{name}.{parameter}", module, name, parameter
                    )


class ModelOptWeight(Site):
    """One weight of ModelOpt. Its range was found in calibration, and does not change.

    Args:
        name: Name of the layer, or of the weight if the layer has several.
        module: The layer.
        path: Name of the layer.
        parameter: Name of the parameter in the layer.
    """

    module: Any

    def __init__(self, name: str, module: nn.Module, path: str, parameter: str) -> None:
        super().__init__(name, module)
        self._path, self._parameter = path, parameter
        self._kept: Tensor | None = None  # the scale, while training is over
        self._quantizer: Any = module.get_submodule(parameter + _SUFFIX)
        _check(name, self._quantizer)
        with torch.no_grad():
            values = self._quantizer.forward(self.latent)
        now = self.read()
        steps = (values - now.scale * now.codes).abs() / torch.where(now.scale == 0, 1, now.scale)
        if not bool((steps < 0.01).all()):
            raise AttachError(
                f"{name}: {type(self._quantizer).__name__} of ModelOpt does not round to integers "
                f"times one scale; leave it out: quiesce.attach(model, exclude=['{name}'])"
            )

    @property
    def latent(self) -> nn.Parameter:
        """The float weight."""
        return self.module._parameters[self._parameter]

    @property
    def grid(self) -> Grid:
        """The integers of the codes; ModelOpt's narrow range has one less."""
        high = int(self._quantizer.maxbound)
        low = 0 if self._quantizer.unsigned else -high - (not self._quantizer.narrow_range)
        return Grid.between(low, high)

    @torch.no_grad()
    def read(self) -> Reading:
        """Run the quantizer without hooks."""
        if not self._quantizer.is_enabled:
            raise AttachError(
                f"{self.name}: its quantizer is disabled now, so its codes of training are gone; "
                "call before_convert() before folding weights"
            )
        latent = self.latent.detach()
        scale = _scale(self._quantizer, latent)
        zero_point = torch.zeros_like(scale)
        codes = codes_of(self._quantizer.forward(latent), scale, zero_point)
        return Reading(latent, codes, scale, zero_point)

    def on_output(self, change: Change) -> RemovableHandle:
        """Hook the quantizer."""
        return self._quantizer.register_forward_hook(_Hook(change))

    def converted(self, model: Any) -> Reading | None:
        """Read the weight after `mtq.fold_weight`, which puts quantized values in its place.

        Raises:
            AttachError: `model` is no network.
        """
        if not isinstance(model, nn.Module):
            raise AttachError(
                "quiesce.audit of ModelOpt reads the network after mtq.fold_weight, not a "
                f"{type(model).__name__}"
            )
        module = dict(named_modules(model)).get(self._path)
        values = None if module is None else module._parameters.get(self._parameter)
        if values is None:
            return None
        scale = _scale(self._quantizer, values) if self._kept is None else self._kept
        zero_point = torch.zeros_like(scale)
        codes = codes_of(values.detach(), scale, zero_point)
        return Reading(self.latent.detach(), codes, scale, zero_point)

    def before_convert(self) -> None:
        """Keep the scale, which folding deletes."""
        self._kept = _scale(self._quantizer, self.latent).clone()


class _Hook:
    """Changes the output of a quantizer; an instance is copied with its module."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, quantizer: Any, args: Any, out: Tensor) -> Tensor:
        scale = _scale(quantizer, out)
        return self.change(out, scale, torch.zeros_like(scale))


def _scale(quantizer: Any, like: Tensor) -> Tensor:
    """Return floats per code, broadcastable to a weight."""
    scale = quantizer.amax.detach().float() / quantizer.maxbound
    if quantizer.block_sizes is not None:
        scale = over_blocks(scale.reshape(*like.shape[:-1], -1), like.shape)
    return scale


def _check(name: str, quantizer: Any) -> None:
    advice = f"leave it out: quiesce.attach(model, exclude=['{name}'])"
    blocks = getattr(quantizer, "block_sizes", None) or {}
    odd = {
        "is no TensorQuantizer": not isinstance(quantizer, TensorQuantizer),
        "has another number format than integers": not isinstance(
            getattr(quantizer, "num_bits", 8), int
        ),
        "has dynamic blocks": blocks.get("type") == "dynamic" or getattr(quantizer, "_dynamic", 0),
        "has blocks along other dimensions than the last": any(
            isinstance(dim, int) and dim != -1 for dim in blocks
        ),
        "has a backend of its own": getattr(quantizer, "backend", None) is not None,
        "scales or rotates its input": getattr(quantizer, "pre_quant_scale", None) is not None
        or getattr(quantizer, "rotate_is_enabled", False)
        or getattr(quantizer, "bias", None) is not None,
        "learns its range (LSQ)": getattr(quantizer, "_lsq", False),
    }
    for what, there in odd.items():
        if there:
            kind = type(quantizer).__name__
            raise AttachError(f"{name}: {kind} of ModelOpt {what}, which is not followed; {advice}")
    if quantizer._if_calib:
        raise AttachError(f"{name}: its quantizer is being calibrated; attach after mtq.quantize")
    if quantizer.amax is None:
        raise NotCalibratedError(
            f"{name}: its range has no value yet; calibrate it with mtq.quantize(model, config, "
            "forward_loop) before quiesce.attach"
        )
