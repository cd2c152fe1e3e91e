"""Reads a folded graph as accumulators and the values that quantizers round.

Every quantized input rounds one kind of values: those of the network's input, or those of a layer
or an addition, through an activation, a mean over all positions, and a flattening. What has another
form is refused, by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from quiesce.export.biases.thresholds import Inputs, Outputs, reaches
from quiesce.export.graph.edits import constant
from quiesce.export.graph.makers import made_by
from quiesce.export.graph.quantized_inputs import QuantizedInput, bounds_of
from quiesce.export.graph.weight_sites import Site, input_of
from quiesce.export.targets.target import Network, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

Shape: TypeAlias = tuple[int, ...]
"""Without the batch, channels first."""

TAKEN = (
    "use convolutions, linear layers, batch norms after them, ReLU, ReLU6, a mean over all "
    "positions and additions"
)
"""The operators that are taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer of integers: its accumulators are sums of codes times codes."""

    site: Site
    source: QuantizedInput
    inward: Shape
    outward: Shape

    @property
    def name(self) -> str:
        """Name of the use of the weight."""
        return self.site.name

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.site.layer.channels

    @property
    def bias(self) -> np.ndarray:
        """float64 (channels,)."""
        return np.zeros(self.channels) if self.site.bias is None else self.site.bias

    @property
    def unit(self) -> np.ndarray:
        """float64 (channels,): floats per accumulator unit."""
        return self.site.per_channel * float(self.source.grid.scale)

    @cached_property
    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest accumulator of each channel, of all inputs that codes allow."""
        return reaches(self.site.channel_codes, self.inputs)

    @property
    def inputs(self) -> Inputs:
        """The grid of the input."""
        source = self.source
        return Inputs(source.grid.scale, source.low, source.high, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Addition:
    """A sum of two operands on grids."""

    left: QuantizedInput
    right: QuantizedInput
    outward: Shape

    @property
    def name(self) -> str:
        """Name of the second operand, without its side."""
        return self.right.name.removesuffix(".right").removesuffix(".left")


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """Values before rounding."""

    origin: Layer | Addition | None
    """None for the input of the network."""
    shape: Shape
    """Their shape before flattening."""
    low: float = -inf
    high: float = inf
    """Limits by an activation."""
    positions: int | None = None
    """Number of positions in a mean over all, or None."""


@dataclass(kw_only=True, eq=False)
class InCodes:
    """A network in codes."""

    codes: dict[str, QuantizedInput] = field(default_factory=dict)
    """The quantized inputs, by name, in the order of the graph; with the limits of activations."""
    values: dict[str, Values] = field(default_factory=dict)
    """What each of them rounds."""
    output: Values | None = None
    output_name: str = ""
    layers: dict[str, Layer] = field(default_factory=dict)
    made_by: Mapping[str, str] = field(default_factory=dict)
    last: str = ""
    refusals: list[Refusal] = field(default_factory=list)

    def outputs_of(self, name: str) -> Outputs:
        """Return the grid of a quantized input."""
        codes = self.codes[name]
        return Outputs(codes.grid.scale, codes.low, codes.high)


class _RefusedError(Exception):
    def __init__(self, problem: str, instead: str = TAKEN) -> None:
        super().__init__(problem)
        self.problem = problem
        self.instead = instead


def read_network(network: Network) -> InCodes:
    """Return a network in codes, with everything that is refused."""
    found = InCodes()
    for name, layer in network.layers.items():
        if layer.group_size is not None:
            _note(found, name, "its weight has scales in groups", "prepare it with group_size=None")
    for name, grid in network.grids.items():
        if grid.offset is not None:
            _note(
                found,
                name,
                "its input has a learned offset, which is not a multiple of the scale",
                "prepare it with learn_offset=False",
            )
    if found.refusals:
        return found
    _Reader(network, found).read()
    return found


def _note(found: InCodes, layer: str, problem: str, instead: str) -> None:
    found.refusals.append(Refusal(layer=layer, problem=problem, instead=instead))


class _Reader:
    def __init__(self, network: Network, found: InCodes) -> None:
        self._folded = network.folded
        self._graph = network.folded.traced.graph
        self._found = found
        self._at: dict[ir.Node, Layer | Addition] = {}

    def read(self) -> None:
        found, folded = self._found, self._folded
        found.made_by, found.last = made_by(self._graph, folded.inputs)
        at = {site.node: site for site in folded.sites if site.node is not None}
        for site in folded.sites:
            if site.node is None:
                problem = "what it does with its weight is not known"
                _note(found, site.name, problem, TAKEN)
        for node in self._graph:
            if node in folded.inputs:
                self._read_codes(folded.inputs[node])
            elif node in at:
                self._read_layer(at[node])
        if len(self._graph.outputs) != 1:
            _note(found, found.last, "the network has several outputs", "export one of them")
            return
        try:
            found.output = self._values(self._graph.outputs[0])
            found.output_name = self._folded.outputs[0]
            if found.output.origin is None or (found.output.low, found.output.high) != (-inf, inf):
                raise _RefusedError("an activation", "return what the last layer computes")
        except _RefusedError as error:
            _note(found, found.last, f"the output is {error.problem}", error.instead)

    def _read_layer(self, site: Site) -> None:
        try:
            layer = self._layer(site)
        except _RefusedError as error:
            _note(self._found, site.name, error.problem, error.instead)
            return
        self._found.layers[site.name] = layer
        self._at[site.node] = layer  # pyright: ignore[reportArgumentType]

    def _read_codes(self, quantized: QuantizedInput) -> None:
        try:
            values = self._values(quantized.marker.inputs[0])
        except _RefusedError as error:
            _note(self._found, quantized.name, f"its input is {error.problem}", error.instead)
            return
        low, high = quantized.low, quantized.high
        if values.positions is None:  # rounding keeps the order: clipping can come after it
            grid = quantized.grid
            low = min(max(low, grid.code(values.low)), high)
            high = max(min(high, grid.code(values.high)), low)
        quantized = replace(quantized, low=low, high=high)
        self._found.codes[quantized.name] = quantized
        self._found.values[quantized.name] = values

    def _layer(self, site: Site) -> Layer:
        node, marker = site.node, input_of(site)
        if node is None:
            raise _RefusedError("what it does with its weight is not known")
        if site.layer.input is None:
            raise _RefusedError("its input is float", "prepare it with first_input_bits=8")
        if marker is None:
            raise _RefusedError("an operator, such as a padding mode, changes its rounded input")
        inward, outward = _shape(marker.outputs[0]), _shape(node.outputs[0])
        if site.kind == "linear":
            if len(inward) != 1:
                raise _RefusedError("it is linear over more than one dimension")
        elif node.op_type != "Conv" or len(inward) != 3:
            raise _RefusedError(f"it is a {node.op_type} of {len(inward) - 1} dimensions")
        else:
            _check_convolution(node, inward, outward)
        return Layer(site=site, source=self._read(marker), inward=inward, outward=outward)

    def _read(self, marker: "ir.Node") -> QuantizedInput:
        """Return a quantized input that was read before."""
        name = self._folded.inputs[marker].name
        if name not in self._found.codes:
            raise _RefusedError("the input of a layer that is refused")
        return self._found.codes[name]

    def _values(self, value: "ir.Value | None") -> Values:
        """Return what a value is, by its nodes from the last to the first."""
        if value is None:
            raise _RefusedError("empty")
        node = value.producer()
        if node is None:
            if value.is_initializer():
                raise _RefusedError("a constant")
            return Values(origin=None, shape=_shape(value))
        if node in self._at:
            return Values(origin=self._at[node], shape=self._at[node].outward)
        if node.op_type == "Add":
            return self._addition(node)
        before = node.inputs[0] if node.inputs else None
        bounds = bounds_of(node)
        if bounds is not None:
            values = self._values(before)
            if values.positions is not None:
                raise _RefusedError(f"a {node.op_type} after a mean")
            low, high = (min(max(end, values.low), values.high) for end in bounds)
            return replace(values, low=low, high=high)
        if node.op_type in ("ReduceMean", "GlobalAveragePool"):
            return self._mean(node, self._values(before))
        if node.op_type in ("Reshape", "Flatten", "Squeeze"):
            values = self._values(before)
            if _shape(value) != (prod(values.shape),):
                raise _RefusedError(f"reshaped to {_shape(value)}")
            return values
        if any(node is site.node for site in self._folded.sites):
            raise _RefusedError("the output of a layer that is refused")
        raise _RefusedError(f"the result of {node.op_type}")

    def _addition(self, node: "ir.Node") -> Values:
        if node not in self._at:
            operands = [None if each is None else each.producer() for each in node.inputs]
            left, right = operands
            inputs = self._folded.inputs
            if left is None or right is None or left not in inputs or right not in inputs:
                raise _RefusedError("a sum of floats", "prepare it with residual='quantized'")
            shape = _shape(node.outputs[0])
            if {_shape(left.outputs[0]), _shape(right.outputs[0])} != {shape}:
                raise _RefusedError("a sum of different shapes")
            self._at[node] = Addition(left=self._read(left), right=self._read(right), outward=shape)
        return Values(origin=self._at[node], shape=self._at[node].outward)

    def _mean(self, node: "ir.Node", values: Values) -> Values:
        shape = values.shape
        if values.positions is not None or len(shape) != 3 or values.origin is None:
            raise _RefusedError("a mean of something else than images")
        if node.op_type == "ReduceMean":
            given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            axes = sorted(int(axis) % 4 for axis in (() if given is None else given.ravel()))
            if axes != [2, 3]:
                raise _RefusedError(f"a mean over the dimensions {axes}")
        if values.low not in (0.0, -inf):
            raise _RefusedError(f"a mean of values clipped at {values.low:g}")
        return replace(values, shape=(shape[0], 1, 1), positions=shape[1] * shape[2])


def _shape(value: "ir.Value") -> Shape:
    sizes = () if value.shape is None else tuple(value.shape)[1:]
    if not sizes or not all(isinstance(size, int) for size in sizes):
        raise _RefusedError("of a shape that depends on the input")
    return tuple(int(size) for size in sizes)  # pyright: ignore[reportArgumentType]


def geometry(node: "ir.Node") -> dict[str, tuple[int, ...]]:
    """Return strides (2,), pads (top, left, bottom, right) and dilations (2,) of a convolution."""
    found = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    for name in found:
        if (attribute := node.attributes.get(name)) is not None:
            found[name] = tuple(attribute.value)
    return found


def groups(node: "ir.Node") -> int:
    """Return the groups of a convolution."""
    attribute = node.attributes.get("group")
    return 1 if attribute is None else int(attribute.value)


def _check_convolution(node: "ir.Node", inward: Shape, outward: Shape) -> None:
    count = groups(node)
    if count != 1 and not count == inward[0] == outward[0]:
        raise _RefusedError(
            f"it is a convolution of {count} groups", "use groups=1, or one channel in each group"
        )
    if set(geometry(node)["dilations"]) != {1}:
        raise _RefusedError("it is dilated", "use dilation=1")
