"""Quantized inputs of layers in a traced graph, and activations that their rounding absorbs.

Rounding to a grid is monotone, so clipping before it is clipping after it: code(clip(x, l, h)) =
clip(code(x), code(l), code(h)). A ReLU or ReLU6 that only quantizers read therefore becomes the
limits of an integer Clip, exactly, and the layer before it ends in a quantizer as runtimes like it.
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
    """One node QuantizeInput and the limits between which its codes are clipped."""

    name: str
    """That of the first that reads it, with ":2" and so on where it is called again."""

    place: str
    """Layer or operand of an addition whose quantizer it is."""

    grid: InputGrid

    marker: "ir.Node"

    low: int
    """Smallest code that is left, at least `grid.low`."""

    high: int
    """Largest code that is left, at most `grid.high`."""

    readers: list[str] = field(default_factory=list)
    """All that read it: layers and operands of additions, numbered as `name`."""


def find_inputs(
    graph: "ir.Graph", grids: Mapping[str, InputGrid]
) -> "dict[ir.Node, QuantizedInput]":
    """Return the quantized inputs of a graph by their nodes, in its order.

    A value that several read on one and the same grid is quantized once, for all of them.
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


def between_quantizers(
    site: Site, inputs: "Mapping[ir.Node, QuantizedInput]"
) -> tuple[Inputs, Outputs] | None:
    """What a convolution takes and the grid of what reads it, where both are codes.

    Returns:
        None where it is no convolution between two quantizers without learned offsets, alone with
        its output.
    """
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
