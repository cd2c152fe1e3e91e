"""Quantized inputs of layers in a traced graph, and activations that their rounding absorbs.

Rounding to a grid is monotone, so clipping before it is clipping after it: code(clip(x, l, h)) =
clip(code(x), code(l), code(h)). A ReLU or ReLU6 that only quantizers read therefore becomes the
limits of an integer Clip, exactly, and the layer before it ends in a quantizer as runtimes like it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quiesce.export.graphs import constant
from quiesce.export.integers import InputGrid, LayerIntegers
from quiesce.export.sites import numbered
from quiesce.export.tracing import INPUT, layer_of, markers

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(kw_only=True, eq=False)
class QuantizedInput:
    """One node QuantizeInput and the limits between which its codes are clipped."""

    name: str
    """The layer's, with ":2" and so on where it is called again."""

    grid: InputGrid

    marker: "ir.Node"

    low: int
    """Smallest code that is left, at least `grid.low`."""

    high: int
    """Largest code that is left, at most `grid.high`."""


def find_inputs(
    graph: "ir.Graph", layers: Mapping[str, LayerIntegers]
) -> "dict[ir.Node, QuantizedInput]":
    """Return the quantized inputs of a graph by their nodes, in its order."""
    calls: Counter[str] = Counter()
    found = {}
    for marker in markers(graph, INPUT):
        grid = layers[layer_of(marker)].input
        if grid is not None:
            name = numbered(layer_of(marker), calls)
            found[marker] = QuantizedInput(
                name=name, grid=grid, marker=marker, low=grid.low, high=grid.high
            )
    return found


def absorb_activations(inputs: "Mapping[ir.Node, QuantizedInput]") -> None:
    """Turn each Relu and Clip that only quantized inputs read into limits of their codes."""
    for node in _producers(inputs):
        bounds = _bounds(node)
        readers = [use.node for use in node.outputs[0].uses()]
        if bounds is None or node.outputs[0].is_graph_output():
            continue
        if not all(reader in inputs for reader in readers):
            continue
        for reader in readers:
            _narrow(inputs[reader], *bounds)
            reader.replace_input_with(0, node.inputs[0])
        node.graph.remove(node, safe=True)  # pyright: ignore[reportOptionalMemberAccess]


def _producers(inputs: "Mapping[ir.Node, QuantizedInput]") -> "list[ir.Node]":
    """What computes the quantized values, each once."""
    values = [marker.inputs[0] for marker in inputs]
    nodes = [None if value is None else value.producer() for value in values]
    return list(dict.fromkeys(node for node in nodes if node is not None))


def _narrow(quantized: QuantizedInput, low: float, high: float) -> None:
    first, last = quantized.low, quantized.high
    quantized.low = min(max(first, quantized.grid.code(low)), last)
    quantized.high = max(min(last, quantized.grid.code(high)), quantized.low)


def _bounds(node: "ir.Node") -> tuple[float, float] | None:
    """Return between which values a node clips, or None where it is no activation of that kind."""
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
