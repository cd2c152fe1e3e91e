"""Writes a traced network with one `Quant` node for each quantizer.

The graph is that of training: batch norms and activation functions stay operators, because FINN
turns them into thresholds itself. The values of a weight are its codes times its scale.

Source of the node: Pappalardo et al., QONNX: Representing Arbitrary-Precision Quantized Neural
Networks, 2022, arXiv:2206.07527.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import InputGrid, LayerIntegers
from quiesce.export.graph.edits import Builder, onnx_ir, replace
from quiesce.export.graph.makers import made_by
from quiesce.export.graph.quantized_inputs import QuantizedInput, find_inputs
from quiesce.export.graph.tracing import DOMAIN, OWN, WEIGHT, layer_of, markers, reason, trace
from quiesce.export.graph.weight_sites import numbered
from quiesce.export.targets.target import Network
from quiesce.extras import require

if TYPE_CHECKING:
    import onnx_ir as ir

QUANT_DOMAIN = "qonnx.custom_op.general"
OPSET = 18
VALUES = ".input_values"
"""Suffix of the name of a quantized input that gives the name of its tensor."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A graph with Quant nodes."""

    proto: Any
    """The onnx.ModelProto, with a dynamic batch size."""
    grids: dict[str, InputGrid]
    """Names of all quantized inputs, with their grids."""
    weights: dict[str, str]
    """Names of the uses of weights, to their layers; the tensors have the suffix WEIGHT_VALUES."""
    made_by: dict[str, str]
    last: str


WEIGHT_VALUES = ".weight_values"


def write_quant_nodes(network: Network) -> Written:
    """Return a network with Quant nodes.

    Raises:
        ExportError: torch.onnx cannot express it.
    """
    traced = trace(network.model, network.example, OPSET)
    graph = traced.graph
    outputs = [output.name for output in graph.outputs]
    inputs = find_inputs(graph, network.grids)
    makers, last = made_by(graph, inputs)
    for each in inputs.values():
        _quantize_input(graph, each)
    calls: Counter[str] = Counter()
    weights = {}
    for marker in markers(graph, WEIGHT):
        layer = network.layers[layer_of(marker)]
        name = numbered(layer.name, calls)
        _quantize_weight(graph, name, layer, marker)
        weights[name] = layer.name
    try:
        proto = _finished(traced, outputs)
    except Exception as error:  # onnx_ir and the checker raise many kinds
        name = type(network.model).__name__
        raise ExportError(f"{name} cannot be written as QONNX: {reason(error)}") from error
    return Written(
        proto=proto,
        grids={each.name: each.grid for each in inputs.values()},
        weights=weights,
        made_by=makers,
        last=last,
    )


def _quantize_input(graph: "ir.Graph", quantized: QuantizedInput) -> None:
    grid, name, marker = quantized.grid, quantized.name, quantized.marker
    build = Builder(graph, before=marker)
    value = marker.inputs[0]
    offset = None
    if grid.offset is not None:  # its zero point is no integer, which Quant needs
        offset = build.constant(f"{name}.input_offset", np.asarray(grid.offset, dtype=np.float32))
        value = build.node("Sub", [value, offset], f"{name}.input_shifted", like=marker.outputs[0])
    scale = np.asarray(grid.scale, dtype=np.float32)
    kind = (grid.bits, grid.low < 0)
    made = _quant(build, value, name + VALUES, scale, *kind, like=marker.outputs[0])  # pyright: ignore[reportArgumentType]
    if offset is not None:
        made = build.node("Add", [made, offset], f"{name}.input_unshifted", like=made)
    replace(marker, made)


def _quantize_weight(graph: "ir.Graph", name: str, layer: LayerIntegers, marker: "ir.Node") -> None:
    build = Builder(graph, before=marker)
    shape = [1] * layer.codes.ndim
    if layer.scale.size > 1:
        shape[1 if layer.transposed else 0] = layer.scale.size
    scale = layer.scale.astype(np.float32).reshape(shape)
    values = build.constant(f"{layer.shared_with}.weight", layer.codes.astype(np.float32) * scale)
    made = _quant(
        build, values, name + WEIGHT_VALUES, scale, layer.bits, True, like=marker.outputs[0]
    )
    replace(marker, made)


def _quant(
    build: Builder,
    value: "ir.Value",
    name: str,
    scale: np.ndarray,
    bits: int,
    signed: bool,
    like: "ir.Value",
) -> "ir.Value":
    parts = [
        build.constant(f"{name}.scale", scale if scale.size > 1 else scale.reshape(())),
        build.constant(f"{name}.zero_point", np.asarray(0, dtype=np.float32)),
        build.constant(f"{name}.bits", np.asarray(bits, dtype=np.float32)),
    ]
    attributes = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
    inputs = [value, *parts]
    return build.node("Quant", inputs, name, like=like, domain=QUANT_DOMAIN, **attributes)


def _finished(model: "ir.Model", outputs: list[str]) -> Any:
    """Return the checked ModelProto, without traces of this machine."""
    ir = onnx_ir()
    onnx = require("onnx", "export to ONNX", "onnx")
    common = ir.passes.common
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    common.ClearMetadataAndDocStringPass()(model)
    for value in list(model.graph.initializers.values()):
        free = (value.name or "").removeprefix(OWN)
        if free not in model.graph.initializers:
            value.name = free
    model.opset_imports.pop(DOMAIN, None)
    model.opset_imports[QUANT_DOMAIN] = 1
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "quiesce", None
    model.graph.name = "quiesce"
    model.functions.clear()
    for output, name in zip(model.graph.outputs, outputs, strict=True):
        output.name = name
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # shapes depend on the batch size
    onnx.checker.check_model(proto)
    return proto
