"""The same network in Brevitas, for comparison, with learned scales and the same bits."""

import warnings
from collections.abc import Callable
from typing import Any

import brevitas.nn as qnn
from brevitas.inject.enum import RestrictValueType, ScalingImplType
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
from torch import nn

from networks import Data, float_network, sgd, step


class LearnedWeight(Int8WeightPerTensorFloat):
    """Signed weights per tensor; the scale is a parameter, initialized from the weights."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    restrict_scaling_type = RestrictValueType.FP


def brevitas_step(name: str, batch: Data) -> Callable[[], Any]:
    """One training step at W4A4; first and last layer have 8 bits, and the first input is float."""
    model = float_network(name, compiled=False)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    signed = _signed_inputs(model, [m for _, m in layers], batch)
    for i, (path, layer) in enumerate(layers):
        bits = 8 if i in (0, len(layers) - 1) else 4
        parent, _, attribute = path.rpartition(".")
        quantized = _quantized(layer, bits, with_input=i > 0, signed=signed[i])
        setattr(model.get_submodule(parent), attribute, quantized)
    return step(model, sgd(model), batch)


def _signed_inputs(model: nn.Module, layers: list[nn.Module], batch: Data) -> list[bool]:
    seen: dict[nn.Module, bool] = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, x: seen.update({m: bool((x[0] < 0).any())}))
        for layer in layers
    ]
    model(batch[0][:2])
    for handle in handles:
        handle.remove()
    return [seen[layer] for layer in layers]


def _quantized(layer: nn.Module, bits: int, *, with_input: bool, signed: bool) -> nn.Module:
    keep: dict[str, Any] = {"bias": layer.bias is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"weight_quant": LearnedWeight, "weight_bit_width": bits}
        if isinstance(layer, nn.Linear):
            made = qnn.QuantLinear(layer.in_features, layer.out_features, **keep, **options)
        else:
            made = qnn.QuantConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
                **keep,
                **options,
            )
        made.load_state_dict(layer.state_dict(), strict=False)
        if not with_input:
            return made
        act = Int8ActPerTensorFloat if signed else Uint8ActPerTensorFloat
        return nn.Sequential(qnn.QuantIdentity(act_quant=act, bit_width=bits), made)
