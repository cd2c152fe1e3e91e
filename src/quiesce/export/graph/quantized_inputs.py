"""Quantized inputs of layers in a traced graph, and the activations that rounding absorbs.

Rounding to a grid is monotone, so clipping can come after it: code(clip(x, l, h)) = clip(code(x),
code(l), code(h)). A ReLU or ReLU6 that only quantizers read therefore becomes the limits of an
integer Clip, exactly, and the layer before it ends in a quantizer, as runtimes expect.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quiesce.export.biases.layer_integers import InputGrid
from quiesce.export.biases.thresholds import Inputs, Outputs
from quiesce.export.graph.edits import constant, replace, sole_use
from quiesce.export.graph.tracing import INPUT, layer_of, markers
from quiesce.export.graph.weight_sites import Site, input_of, numbered

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(kw_only=True, eq=False)
class QuantizedInput:
    """A QuantizeInput node, and the limits of its codes."""

    name: str
    """Name of its first reader, with ":2" and so on for further calls."""
    place: str
    """The layer or operand of an addition that has the quantizer."""
    grid: InputGrid
    marker: "ir.Node"
    low: int
    """Smallest code, at least `grid.low`."""
    high: int
    """Largest code, at most `grid.high`."""
    readers: list[str] = field(default_factory=list)
    """All readers, layers and operands of additions, named like `name`."""


def find_inputs(
    graph: "ir.Graph", grids: Mapping[str, InputGrid]
) -> "dict[ir.Node, QuantizedInput]":
    """Return the quantized inputs of a graph by their nodes, in its order.

    A value that has several readers on the same grid is quantized once.
    """
    calls: Counter[str] = Counter()
    first: dict[tuple[int, InputGrid], ir.Node] = {}
    found: dict[ir.Node, QuantizedInput] = {}
    for marker in markers(graph, INPUT):
        place = layer_of(marker)
        name, grid = numbered(place, calls), grids[place]
        same = first.setdefault((id(marker.inputs[0]), grid), marker)
        if same is marker:
            found[marker] = QuantizedInput(
                name=name, place=place, grid=grid, marker=marker, low=grid.low, high=grid.high
            )
        else:
            replace(marker, same.outputs[0])
        found[same].readers.append(name)
    return found


def absorb_activations(inputs: "Mapping[ir.Node, QuantizedInput]") -> None:
    """Replace each Relu and Clip that only quantized inputs read by limits of their codes."""
    for node in _producers(inputs):
        bounds = bounds_of(node)
        readers = [use.node for use in node.outputs[0].uses()]
        if bounds is None or node.outputs[0].is_graph_output():
            continue
        if not all(reader in inputs for reader in readers):
            continue
        for reader in readers:
            _narrow(inputs[reader], *bounds)
            reader.replace_input_with(0, node.inputs[0])
        node.graph.remove(node, safe=True)  # pyright: ignore[reportOptionalMemberAccess]


def between_quantizers(
    site: Site, inputs: "Mapping[ir.Node, QuantizedInput]"
) -> tuple[Inputs, Outputs] | None:
    """Return the input and the output grid of a convolution between quantizers, or None."""
    before = input_of(site)
    after = None if site.node is None else sole_use(site.node.outputs[0])
    if site.kind != "convolution" or site.node is None or site.node.op_type != "Conv":
        return None
    if before is None or after is None or before not in inputs or after not in inputs:
        return None
    source, target = inputs[before], inputs[after]
    if source.grid.offset is not None or target.grid.offset is not None:
        return None
    return (
        Inputs(source.grid.scale, source.low, source.high, source.high + source.grid.zero_point),
        Outputs(target.grid.scale, target.low, target.high),
    )


def _producers(inputs: "Mapping[ir.Node, QuantizedInput]") -> "list[ir.Node]":
    """Return the producers of the quantized values, each once."""
    values = [marker.inputs[0] for marker in inputs]
    nodes = [None if value is None else value.producer() for value in values]
    return list(dict.fromkeys(node for node in nodes if node is not None))


def _narrow(quantized: QuantizedInput, low: float, high: float) -> None:
    first, last = quantized.low, quantized.high
    quantized.low = min(max(first, quantized.grid.code(low)), last)
    quantized.high = max(min(last, quantized.grid.code(high)), quantized.low)


def bounds_of(node: "ir.Node") -> tuple[float, float] | None:
    """Return the limits of a Relu or Clip, or None for another node."""
    if node.domain != "":
        return None
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    bounds = [-np.inf, np.inf]
    for place, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        number = constant(value)
        if number is None:
            return None
        bounds[place] = float(number)
    return bounds[0], bounds[1]
