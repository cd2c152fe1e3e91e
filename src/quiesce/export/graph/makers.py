"""The layers that compute the codes of a traced network."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quiesce.export.graph.quantized_inputs import QuantizedInput
from quiesce.export.graph.tracing import WEIGHT, layer_of, markers
from quiesce.export.graph.weight_sites import numbered

if TYPE_CHECKING:
    import onnx_ir as ir


def made_by(
    graph: "ir.Graph", inputs: "Mapping[ir.Node, QuantizedInput]"
) -> tuple[dict[str, str], str]:
    """Return the last layer before each quantized input, by its name, and before the outputs.

    Args:
        graph: The graph, with its quantizers as nodes.
        inputs: The result of `find_inputs`.
    """
    calls: Counter[str] = Counter()
    weights = {node: numbered(layer_of(node), calls) for node in markers(graph, WEIGHT)}
    order = {name: place for place, name in enumerate(weights.values())}

    def last(value: "ir.Value | None") -> str | None:
        names, seen, todo = [], set(), [value]
        while todo:
            value = todo.pop()
            node = None if value is None else value.producer()
            if node is None or node in seen or node in inputs:
                continue
            seen.add(node)
            if node in weights:
                names.append(weights[node])
            else:
                todo += node.inputs
        return max(names, key=order.__getitem__, default=None)

    made = {
        each.name: last(marker.inputs[0]) or _without_layer(each.name, marker)
        for marker, each in inputs.items()
    }
    ends = [name for name in map(last, graph.outputs) if name is not None]
    return made, max(ends, key=order.__getitem__, default=None) or "the output"


def _without_layer(name: str, marker: "ir.Node") -> str:
    """Describe the source of the codes of `name` if no layer computes them."""
    value = marker.inputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Add":
            return f"the addition read by {name}"
        value = node.inputs[0] if node.inputs else None
    return "the input"
