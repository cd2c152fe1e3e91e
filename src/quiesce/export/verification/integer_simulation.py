"""An exact integer network, the reference when runtime and training differ.

Every quantized layer multiplies and adds the trained codes as integers; the sums must fit into
int32. Everything between the sums and the next codes (scale, bias, batch norm, activation,
additions) is in float64, and a code is rounded once: half to even, then clipped. Integers are
stored in float64, where sums below 2^53 are exact.
"""

import copy
from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from quiesce.errors import ExportError, first_line
from quiesce.export.biases.layer_integers import Place, input_places
from quiesce.export.graph.weight_sites import numbered
from quiesce.export.interface import Example, output_tensors
from quiesce.export.verification.trained_codes import Computed
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantized_layers import QuantizedLayer, channel_dim
from quiesce.quantization.ties import EMBEDDINGS

ACCUMULATOR_MAX = 2**31 - 1

UNDECIDED = 1e-4
"""Distance from a threshold, in codes, within which float32 cannot decide: a sum changes by a few
roundings of 2^-24 with its order, in a grid of 256 codes by some 3 * 256 * 2^-24 = 5e-5 of a code.
"""


@torch.no_grad()
def run_reference(model: nn.Module, example: Example, codes: Mapping[str, np.ndarray]) -> Computed:
    """Compute the codes of every quantized input, and the outputs, from the given codes.

    Args:
        codes: The trained codes from `run_trained`, used as input of every layer.

    Returns:
        Codes by name, in int16, so that values outside the 8-bit range are visible; and outputs in
        float64.

    Raises:
        ExportError: A sum of products does not fit into int32, or the model cannot compute in
            float64.
    """
    made, computed, undecided = _integer_network(model, codes)
    try:
        outputs = output_tensors(example.changed(_wide).run(made))
    except RuntimeError as error:
        raise ExportError(
            f"{type(model).__name__} cannot compute in float64, as the integer reference must "
            f"({first_line(error)}); export it without verification"
        ) from error
    arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
    return Computed(computed, arrays, undecided)


def _wide(_: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _integer_network(
    model: nn.Module, codes: Mapping[str, np.ndarray]
) -> tuple[nn.Module, dict[str, np.ndarray], dict[str, np.ndarray]]:
    weights = {id(w.latent): w.codes().cpu().double() for w in quantized_weights(model)}
    of_layer = {
        name: weights[id(module.latent)]
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
    }
    computed: dict[str, np.ndarray] = {}
    undecided: dict[str, np.ndarray] = {}
    calls: Counter[str] = Counter()
    network = copy.deepcopy(model).cpu().double().eval()
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, QuantizedLayer):
            continue
        if isinstance(layer, EMBEDDINGS):  # no multiplication: its rows are values
            rows = of_layer[name] * _scale_of(layer)
            layer.add_module("weight_quantizer", _Given(rows))
            continue
        codes_or_values, scale = of_layer[name], _layer_scale(layer)
        if layer.weight_quantizer.group_size is not None:  # sums of groups have several scales
            codes_or_values = codes_or_values * _scale_of(layer)
            scale = torch.ones((), dtype=torch.float64)
        layer.register_forward_hook(_Scaling(name, layer, scale))
        layer.add_module("weight_quantizer", _Given(codes_or_values))
        layer._parameters["bias"] = None  # added after scaling
    for place in input_places(network):
        judge = _Judge(place, codes, computed, undecided, calls)
        place.owner.add_module(place.attribute, judge)
    return network, computed, undecided


def _scale_of(layer: QuantizedLayer) -> Tensor:
    quantizer = layer.weight_quantizer
    return quantizer.expanded(quantizer.step_size)


def _layer_scale(layer: QuantizedLayer) -> Tensor:
    """Return floats per weight code, broadcastable to the output."""
    scale = layer.weight_quantizer.step_size
    if scale.numel() == 1:
        return scale.reshape(())
    flat = scale.reshape(-1)
    if channel_dim(layer) == 1:
        flat = flat.repeat(getattr(layer, "groups", 1))
    return _along_channels(layer, flat)


def _along_channels(layer: nn.Module, values: Tensor) -> Tensor:
    """Reshape (channels,) to broadcast to the output of a layer."""
    weight = layer._parameters["weight"]
    spatial = 0 if isinstance(layer, nn.Linear) or weight is None else weight.dim() - 2
    return values.reshape(-1, *(1,) * spatial)


class _Given(nn.Module):
    """Module that returns the codes of a weight."""

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.codes = codes

    def forward(self, _: Tensor) -> Tensor:
        return self.codes


class _Judge(nn.Module):
    """Module that records the code of each value, and returns the trained code.

    A layer gets integers, and its sums are scaled afterwards; an addition gets values.
    """

    def __init__(
        self,
        place: Place,
        codes: Mapping[str, np.ndarray],
        computed: dict[str, np.ndarray],
        undecided: dict[str, np.ndarray],
        calls: "Counter[str]",
    ) -> None:
        super().__init__()
        self.place = place.name
        self.quantizer = place.quantizer
        self.integers = isinstance(place.owner, QuantizedLayer)
        self.codes = codes
        self.computed = computed
        self.undecided = undecided
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        quantizer = self.quantizer
        name = numbered(self.place, self.calls)
        shifted = x if quantizer.offset is None else x - quantizer.offset
        low, high = quantizer.limits
        exact = shifted / quantizer.step_size
        code = torch.round(exact).clamp(low, high)
        self.computed[name] = code.to(torch.int16).numpy()
        self.undecided[name] = ((exact - exact.floor() - 0.5).abs() < UNDECIDED).numpy()
        given = torch.from_numpy(self.codes[name]).double()
        if quantizer.offset is not None:  # not an integer multiple
            return given * quantizer.step_size + quantizer.offset
        return given if self.integers else given * quantizer.step_size


class _Scaling:
    """Module that turns the integer sums of a layer into its output."""

    def __init__(self, name: str, layer: QuantizedLayer, scale: Tensor) -> None:
        quantizer = layer.input_quantizer
        bias = layer._parameters.get("bias")
        self.name = name
        self.integer = quantizer is not None and quantizer.offset is None
        self.scale = scale
        if quantizer is not None and quantizer.offset is None:
            self.scale = scale * quantizer.step_size
        self.bias = None if bias is None else _along_channels(layer, bias.detach())

    def __call__(self, _module: nn.Module, _args: object, sums: Tensor) -> Tensor:
        if self.integer and sums.numel() and float(sums.abs().max()) > ACCUMULATOR_MAX:
            raise ExportError(
                f"{self.name}: sums of products do not fit into int32; give it fewer bits"
            )
        scaled = sums * self.scale
        return scaled if self.bias is None else scaled + self.bias
