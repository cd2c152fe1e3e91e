"""Reads a prepared layer as integers, which the exported file must contain unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from quiesce.arithmetic.fake_quantize import positive
from quiesce.errors import ExportError, NothingToDoError
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantized_additions import Addition
from quiesce.quantization.quantized_layers import TRANSPOSED, QuantizedLayer, channel_dim
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.quantization.quantizer import FakeQuantizer


@dataclass(frozen=True, kw_only=True)
class InputGrid:
    """Rounding of a layer's input: code = clip(round((x - offset) / scale), low, high)."""

    bits: int
    """Bits of a code."""
    low: int
    """Smallest code."""
    high: int
    """Largest code."""
    scale: np.float32
    """Floats per code, above 0."""
    offset: np.float32 | None
    """Value of code 0, or None if it is 0 and not learned."""

    @property
    def zero_point(self) -> int:
        """Offset added to a code so that the smallest is 0 in uint8.

        Signed codes are stored in uint8 too, because ONNX Runtime creates integer convolutions only
        for inputs and outputs of one type.
        """
        return -self.low

    def code(self, x: float) -> int:
        """Return the code of a value, computed in float32 as in training."""
        shifted = np.float32(x) - (self.offset or np.float32(0))
        return int(np.clip(np.round(shifted / self.scale), self.low, self.high))


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerIntegers:
    """A quantized layer: the codes of its weight, their scale, and the grid of its input."""

    name: str
    """Name of the module."""
    bits: int
    """Bits of a weight code."""
    codes: np.ndarray
    """int8, in the shape of the weight."""
    scale: np.ndarray
    """float32 (1,) or (output channels,): floats per code, above 0. With groups (rows, groups)."""
    channels: int
    """Output channels."""
    transposed: bool
    """Whether it is a transposed convolution, whose weight has output channels second."""
    input: InputGrid | None
    """None for a float input."""
    shared_with: str
    """Name of the first layer with the same weight; may be its own name."""
    group_size: int | None = None
    """Number of inputs that share a scale, or None."""


def read_integers(model: nn.Module) -> dict[str, LayerIntegers]:
    """Return every quantized layer of a prepared model, by name, in the order of the modules.

    Raises:
        NothingToDoError: The model is not prepared.
        NotCalibratedError: A quantizer has no scale yet; the message contains its name.
        ExportError: A parameter is not float32, the levels of a weight are not integers, or a
            layer shares a weight whose scales do not match its own output channels.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ExportError(f"{name} is {kind}, a file holds float32; export model.float()")
    views = {id(view.latent): view for view in quantized_weights(model)}
    if odd := [view.name for view in views.values() if view.grid.levels.values]:
        raise ExportError(
            f"{odd[0]}: its levels are no integers ({len(odd)} of {len(views)} weights); "
            "quiesce.export_gguf writes fp4, and quiesce.strip(model) returns a float network "
            "with the quantized values"
        )
    return {
        name: _read(name, module, views[id(module.latent)])
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
    }


class Place(NamedTuple):
    """The location of an activation quantizer: the input of a layer, or an addition."""

    name: str
    """Name of the layer, or of the addition with ".left" or ".right"."""
    owner: nn.Module
    attribute: str
    """Name of the quantizer in `owner`; several owners may share a quantizer."""

    @property
    def quantizer(self) -> FakeQuantizer:
        """The quantizer."""
        return getattr(self.owner, self.attribute)


def input_places(model: nn.Module) -> list[Place]:
    """Return the locations of activation quantizers, in the order of the modules."""
    places = []
    for name, module in model.named_modules():
        if isinstance(module, Addition):
            places += [Place(f"{name}.{side}", module, side) for side in ("left", "right")]
        elif isinstance(module, QuantizedLayer) and module.input_quantizer is not None:
            places.append(Place(name, module, "input_quantizer"))
    return places


def read_inputs(model: nn.Module) -> dict[str, InputGrid]:
    """Return the grids of the activations of a prepared model, by the names of their locations."""
    return {place.name: _input_grid(place.quantizer) for place in input_places(model)}


def check_all_called(layers: Mapping[str, LayerIntegers], called: set[str]) -> None:
    """Raise a NothingToDoError for a layer that is on no path from input to output."""
    if idle := [name for name in layers if name not in called]:
        raise NothingToDoError(
            f"{idle[0]} is on no path from the input to the output ({len(idle)} of {len(layers)} "
            "layers are not); remove it from the model, or give an example_input that reaches it"
        )


def _read(name: str, layer: QuantizedLayer, weight: QuantizedWeight) -> LayerIntegers:
    grouped = weight.group_size is not None
    scale = positive(weight.raw_scale if grouped else weight.scale).float().cpu().numpy()
    scale = scale if grouped else scale.reshape(-1)
    codes = weight.codes().cpu().contiguous().numpy()
    transposed = isinstance(layer, TRANSPOSED)
    if not grouped and scale.size > 1 and weight.scale.shape[channel_dim(layer)] != scale.size:
        raise ExportError(
            f"{name} shares the weight of {weight.name}, whose scales are for other channels than "
            "its outputs; prepare both with per_channel=False"
        )
    channels = codes.shape[0]
    if isinstance(layer, TRANSPOSED):
        channels = codes.shape[1] * layer.groups
    return LayerIntegers(
        name=name,
        bits=weight.grid.bits,
        codes=codes,
        scale=scale,
        channels=channels,
        transposed=transposed,
        input=None if layer.input_quantizer is None else _input_grid(layer.input_quantizer),
        shared_with=weight.name,
        group_size=weight.group_size,
    )


def _input_grid(quantizer: FakeQuantizer) -> InputGrid:
    if quantizer.grid is None:
        raise quantizer.not_calibrated()
    offset = quantizer.offset
    return InputGrid(
        bits=quantizer.bits,
        low=quantizer.grid.quant_min,
        high=quantizer.grid.quant_max,
        scale=np.float32(quantizer.step_size.item()),
        offset=None if offset is None else np.float32(offset.item()),
    )
