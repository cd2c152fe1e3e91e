"""Writes a network in codes as a list of hls4ml layers, with the type of every number.

A quantized layer becomes a layer of integer weights, and a BatchNormalization acc*m + b whose
result type rounds half to even and saturates as the trained quantizer does. All arrays have
channels last.
"""

import re
from collections.abc import Sequence
from math import ceil, log2, prod
from typing import Any

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.graph.quantized_inputs import QuantizedInput
from quiesce.export.targets.hls4ml.fixed_point import (
    SHARE,
    Affine,
    codes_type,
    fraction_for,
    integer_type,
    precise,
    rounded,
    signed_bits,
    type_of,
)
from quiesce.export.targets.hls4ml.network_in_codes import (
    InCodes,
    Layer,
    Shape,
    Values,
    geometry,
    groups,
)
from quiesce.export.targets.hls4ml.numbers import Numbers, exact_terms, largest_value
from quiesce.export.targets.hls4ml.rows import Accumulator, Design, Rescaling

OUTPUT_SHARE = 2.0**-22
"""Largest error of an output, as a share of the largest output that the weights allow."""


def write_design(network: InCodes, numbers: Numbers, *, cut: bool = False) -> Design:
    """Return a design of a network that nothing refuses.

    Args:
        network: The network.
        numbers: Its numbers.
        cut: Make every quantized input an input of the design, and all codes outputs.

    Raises:
        ExportError: No numbers give the trained codes.
    """
    return _Writer(network, numbers, cut).written()


def arranged(layer: Layer, codes: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the codes of a weight as hls4ml stores them: channels last, outputs last.

    Args:
        layer: The layer.
        codes: Its codes, in the shape of the weight.
        shape: The shape of its input before flattening.
    """
    if codes.ndim == 2:
        turned = codes.T
        return np.moveaxis(turned.reshape(*shape, -1), 0, len(shape) - 1).reshape(turned.shape)
    node = layer.site.node
    if node is not None and groups(node) > 1:
        return codes.transpose(2, 3, 0, 1)
    return codes.transpose(2, 3, 1, 0)


def _last(shape: Shape) -> list[int]:
    """Return a shape with its channels last."""
    return [*shape[1:], shape[0]]


class _Writer:
    def __init__(self, network: InCodes, numbers: Numbers, cut: bool) -> None:
        self._network = network
        self._numbers = numbers
        self._cut = cut
        self._made = Design()
        self._read: dict[str, str] = {}  # quantized inputs to the layers that readers read
        self._summed: dict[str, str] = {}  # layers to their accumulators

    def written(self) -> Design:
        for name, codes in self._network.codes.items():
            values = self._network.values[name]
            if values.origin is None or self._cut:
                self._read[name] = self._input(codes, values)
            if values.origin is not None:
                made = self._codes(name, codes, values)
                self._made.codes[name] = made
                self._read.setdefault(name, made)
        output = self._network.output
        if output is None:
            raise ExportError("the network has no output")
        last = self._output(output)
        self._made.outputs = [*self._made.codes.values(), last] if self._cut else [last]
        return self._made

    def _name(self, kind: str, name: str) -> str:
        """Return a C++ identifier that no other layer has, whatever the case of its letters."""
        wanted = f"{kind}_{re.sub('[^0-9A-Za-z]+', '_', name)}".strip("_")
        taken = {each["name"].lower() for each in self._made.layers}
        made, number = wanted, 2
        while made.lower() in taken:
            made, number = f"{wanted}_{number}", number + 1
        return made

    def _add(
        self, kind: str, name: str, inputs: Sequence[str], types: dict[str, str], **attributes: Any
    ) -> str:
        layer = {"class_name": kind, "name": name, "inputs": list(inputs), **attributes}
        self._made.layers.append(layer)
        self._made.config[name] = {"Precision": types, "Trace": True}
        return name

    def _input(self, codes: QuantizedInput, values: Values) -> str:
        name = self._name("input", codes.name)
        kind = integer_type(codes.low, codes.high)
        shape = _last(values.shape)
        self._made.inputs.append(name)
        return self._add("InputLayer", name, [], {"result": kind}, input_shape=shape)

    def _codes(self, name: str, codes: QuantizedInput, values: Values) -> str:
        kind = codes_type(codes.low, codes.high)
        made = self._name("codes", name)
        if kind is not None:
            return self._rounded(made, name, values, kind)
        # a limit inside of the type: move the upper one to its end, saturate, and move it back
        bits = max(codes.high.bit_length(), codes.grid.bits)
        wide = f"fixed<{bits + 2},{bits + 2},RND_CONV,SAT>"
        whole = self._rounded(self._name("wide", name), name, values, wide)
        up = 2 ** (bits + 1) - 1 - codes.high
        moved = self._moved(self._name("moved", name), whole, values.shape, up, wide)
        low = max(codes.high.bit_length(), 1)
        kind = f"ufixed<{low},{low},RND_CONV,SAT>"
        return self._moved(made, moved, values.shape, -up, kind)

    def _moved(self, name: str, source: str, shape: Shape, by: int, kind: str) -> str:
        return self._affine(name, source, shape, _integers(1, by), kind)

    def _rounded(self, made: str, name: str, values: Values, kind: str) -> str:
        """Return the layer of the codes `name`, of the type `kind`."""
        if values.positions is not None:
            step = float(self._network.codes[name].grid.scale)
            return self._mean(made, name, values, kind, step, SHARE)
        return self._origin(made, name, values, self._numbers.of(name, values), kind)

    def _origin(self, made: str, gives: str, values: Values, numbers: Affine, kind: str) -> str:
        """Return a layer with the origin of values times m, plus b, of the type `kind`."""
        origin = values.origin
        if isinstance(origin, Layer):
            source, after = self._accumulators(origin), origin.name
            self._note(gives, after, numbers, kind)
            return self._affine(made, source, origin.outward, numbers, kind)
        if origin is None:
            raise ExportError(f"{gives}: the network rounds its input twice")
        ends, terms = [], []
        for side, scale in zip((origin.left, origin.right), numbers.scales, strict=True):
            pair = [int(scale[0]) * end for end in (side.low, side.high)]
            part = Affine((scale,), np.zeros(1, dtype=np.int64), numbers.fraction)
            term_type = type_of(np.array(pair), numbers.fraction)
            name = self._name("term", f"{gives}_{side.name}")
            source = self._read[side.name]
            terms.append(self._affine(name, source, origin.outward, part, term_type))
            ends.append((min(pair), max(pair)))
        self._note(gives, origin.name, numbers, kind)
        low, high = (sum(each[place] for each in ends) for place in (0, 1))
        bits = signed_bits(low, high)
        self._made.accumulators.append(
            Accumulator(
                layer=origin.name,
                what="addition",
                low=low,
                high=high,
                bits=bits,
                fraction=numbers.fraction,
            )
        )
        if not numbers.bias.any():
            return self._add("Merge", made, terms, {"result": kind}, op="add")
        # hls4ml's addition has no bias
        exact = f"fixed<{bits},{bits - numbers.fraction}>"
        total = self._add("Merge", self._name("sum", gives), terms, {"result": exact}, op="add")
        one = Affine((np.array([1 << numbers.fraction]),), numbers.bias, numbers.fraction)
        return self._affine(made, total, origin.outward, one, kind)

    def _note(self, gives: str, after: str, numbers: Affine, kind: str) -> None:
        scales = np.concatenate(numbers.scales)
        self._made.rescalings.append(
            Rescaling(
                gives=gives,
                after=after,
                scale=type_of(scales, numbers.fraction),
                bias=type_of(numbers.bias, numbers.fraction),
                fraction=numbers.fraction,
                result=kind,
            )
        )

    def _affine(self, name: str, source: str, shape: Shape, numbers: Affine, kind: str) -> str:
        """Return the layer source*m + b."""
        (scale,) = numbers.scales
        unit = 2.0**-numbers.fraction
        if not numbers.bias.any() and (scale == 1 << numbers.fraction).all():
            # hls4ml removes a batch norm that does nothing, with its rounding
            kinds = {"result": kind}
            return self._add("Activation", name, [source], kinds, activation="linear")
        channels = shape[:1]
        kinds = {
            "result": kind,
            "scale": type_of(scale, numbers.fraction),
            "bias": type_of(numbers.bias, numbers.fraction),
        }
        return self._add(
            "BatchNormalization",
            name,
            [source],
            kinds,
            n_in=prod(shape),
            n_filt=shape[0] if len(shape) > 1 else -1,
            scale_data=np.broadcast_to(scale * unit, channels).copy(),
            bias_data=np.broadcast_to(numbers.bias * unit, channels).copy(),
        )

    def _accumulators(self, layer: Layer) -> str:
        """Return the layer with the integer sums of a layer."""
        if layer.name in self._summed:
            return self._summed[layer.name]
        low, high = (int(end) for end in (layer.reach[0].min(), layer.reach[1].max()))
        accumulators = integer_type(low, high)
        bits = layer.site.layer.bits
        weights = max(bits, 3)  # hls4ml takes signed integers of 2 bits for -1, 0 and 1
        kinds = {
            "weight": f"fixed<{weights},{weights}>",
            "bias": "fixed<2,2>",
            "accum": accumulators,
            "result": accumulators,
        }
        name = self._name("acc", layer.name)
        source = self._read[layer.source.name]
        shape = self._network.values[layer.source.name].shape
        values = arranged(layer, layer.site.layer.codes, shape).astype(np.float64)
        bias = np.zeros(layer.channels)
        if values.ndim == 2:
            if len(shape) > 1:
                flat = self._name("flat", layer.name)
                kind = integer_type(layer.source.low, layer.source.high)
                sizes = [prod(shape)]
                source = self._add("Reshape", flat, [source], {"result": kind}, target_shape=sizes)
            sizes = {"n_in": values.shape[0], "n_out": values.shape[1]}
            self._add("Dense", name, [source], kinds, weight_data=values, bias_data=bias, **sizes)
        else:
            node = layer.site.node
            deep = node is not None and groups(node) > 1
            found = {"depthwise_data" if deep else "weight_data": values, "bias_data": bias}
            kind = "DepthwiseConv2D" if deep else "Conv2D"
            self._add(kind, name, [source], kinds, **found, **_sizes(layer))
        self._made.weights[layer.name] = name
        self._made.accumulators.append(
            Accumulator(
                layer=layer.name, what="layer", low=low, high=high, bits=signed_bits(low, high)
            )
        )
        self._summed[layer.name] = name
        return name

    def _output(self, values: Values) -> str:
        name = self._network.output_name
        scales, bias, largest = exact_terms(values)
        reach = max(largest_value(values), 1e-30)
        made = self._name("output", name)
        whole = ceil(log2(reach)) + 2
        if values.positions is not None:
            error = reach * OUTPUT_SHARE
            kind = f"fixed<{whole + fraction_for(1, error)},{whole},RND,SAT>"
            return self._mean(made, name, values, kind, 1.0, error)
        numbers = precise(scales, bias, largest, reach * OUTPUT_SHARE)
        kind = f"fixed<{whole + numbers.fraction},{whole}>"
        return self._origin(made, name, values, numbers, kind)

    def _mean(
        self, made: str, gives: str, values: Values, kind: str, step: float, error: float
    ) -> str:
        """Return the layer with a mean over all positions, divided by `step`, as `kind`.

        Values become shares of their largest one, unsigned after a ReLU, so that saturation is the
        upper limit. Their sum is exact. The result is off by at most `error`, in steps.
        """
        scales, bias, largest = exact_terms(values)
        count = values.positions or 1
        unsigned = values.low == 0
        top = min(values.high, largest_value(values))
        top = top if top > 0 else 1.0
        each = error / 3 * step / top  # allowed error of the mean of shares, from each source
        fraction = fraction_for(1.5, each)
        wide = fraction if unsigned else fraction + 1
        share = f"{'u' * unsigned}fixed<{wide},{wide - fraction},RND,SAT>"
        numbers = precise([s / top for s in scales], bias / top, largest, each)
        shares = self._origin(self._name("share", gives), gives, values, numbers, share)
        most = count << fraction
        bits = signed_bits(0 if unsigned else -most, most)
        total = f"fixed<{bits},{bits - fraction}>"
        channels, height, width = values.origin.outward  # pyright: ignore[reportOptionalMemberAccess]
        kinds = {"weight": "fixed<3,3>", "bias": "fixed<2,2>", "accum": total, "result": total}
        summed = self._add(
            "DepthwiseConv2D",
            self._name("sum", gives),
            [shares],
            kinds,
            depthwise_data=np.ones((height, width, channels, 1)),
            bias_data=np.zeros(channels),
            **_window(
                (channels, height, width), (channels, 1, 1), (height, width), (1, 1), (0,) * 4
            ),
        )
        self._made.accumulators.append(
            Accumulator(
                layer=values.origin.name,  # pyright: ignore[reportOptionalMemberAccess]
                what="mean",
                low=0 if unsigned else -most,
                high=most,
                bits=bits,
                fraction=fraction,
            )
        )
        scale = np.array([top / step / count])
        last = rounded([scale], np.zeros(1), fraction_for(count / 2, error / 3))
        self._note(gives, f"the mean of {values.origin.name}", last, kind)  # pyright: ignore[reportOptionalMemberAccess]
        return self._affine(made, summed, (channels, 1, 1), last, kind)


def _integers(scale: int, bias: int) -> Affine:
    return Affine((np.array([scale]),), np.array([bias]), 0)


def _sizes(layer: Layer) -> dict[str, Any]:
    node = layer.site.node
    if node is None:
        raise ExportError(f"{layer.name} has no operator")
    found = geometry(node)
    kernel = layer.site.layer.codes.shape[2:]
    return _window(layer.inward, layer.outward, kernel, found["strides"], found["pads"])


def _window(
    inward: Shape, outward: Shape, kernel: Shape, strides: Shape, pads: Shape
) -> dict[str, Any]:
    """Return the sizes of a convolution as hls4ml names them; pads are top, left, bottom, right."""
    names = ("pad_top", "pad_left", "pad_bottom", "pad_right")
    return {
        "data_format": "channels_last",
        "n_chan": inward[0],
        "in_height": inward[1],
        "in_width": inward[2],
        "n_filt": outward[0],
        "out_height": outward[1],
        "out_width": outward[2],
        "filt_height": kernel[0],
        "filt_width": kernel[1],
        "stride_height": strides[0],
        "stride_width": strides[1],
        "dilation_height": 1,
        "dilation_width": 1,
        **dict(zip(names, pads, strict=True)),
    }
