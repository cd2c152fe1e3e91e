"""Rewrites the torch.export graph of a network to quantize and dequantize operators.

Each quantized input becomes quantize_per_tensor and dequantize_per_tensor in int8; limits that are
tighter than int8 become a clamp before it. A convolution between two quantizers gets its weight as
int8 codes behind dequantize_per_channel, and a bias that is a whole number of accumulator units, so
that runtimes compute it in integers. Every other weight is float: codes times scale. Batch norms
and activation functions are folded as in `quiesce.export.graph`, whose results are used here.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor, fx, nn

from quiesce.export.biases.integer_biases import IntegerBiases
from quiesce.export.biases.layer_integers import InputGrid
from quiesce.export.graph.lowering import integer_biases
from quiesce.export.graph.makers import made_by
from quiesce.export.graph.quantized_inputs import QuantizedInput
from quiesce.export.graph.tracing import DOMAIN, INPUT, WEIGHT, marked_copy, not_expressible, quiet
from quiesce.export.graph.weight_sites import Site, numbered
from quiesce.export.interface import OfTensors
from quiesce.export.targets.target import Network

LOW, HIGH = -128, 127
"""Ends of int8, in which codes are stored."""
WEIGHT_LOW = -127

ACTIVATIONS = ("relu", "relu_", "hardtanh", "hardtanh_", "relu6", "clamp")


@dataclass(kw_only=True)
class Rewritten:
    """A network of quantize and dequantize operators, for a batch of one."""

    module: fx.GraphModule
    """Takes tensors, returns a tuple of tensors."""
    example: tuple[Tensor, ...]
    """Arguments for a batch of one."""
    outputs: list[str]
    """Names of the outputs."""
    codes: dict[str, fx.Node]
    """Names of the quantized inputs to the nodes that compute their int8 codes, in order."""
    grids: dict[str, InputGrid]
    """Their grids."""
    integer: dict[str, IntegerBiases]
    """Names of the uses of weights that are computed in integers, with their integers."""
    constants: Literal["int8", "float"] = "int8"
    """Type of the constants of weights in integers, and of codes that variants take and return."""
    weights: dict[str, str] = field(default_factory=dict)
    """Names of all uses of weights to their layers."""
    factors: dict[str, np.ndarray] = field(default_factory=dict)
    """What the codes of each use are multiplied by: int64 for layers in integers, else float64."""
    made_by: dict[str, str] = field(default_factory=dict)
    last: str = ""

    def stored_weight(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Return the weight of a use as the file stores it: int8 or float32."""
        factor = self.factors[name]
        return (codes * factor).astype(np.int8 if factor.dtype.kind == "i" else np.float32)

    def stored(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Return codes as the variants take and return them."""
        grid = self.grids[name]
        if self.constants == "float":
            return codes.astype(np.float32) * grid.scale
        return (codes.astype(np.int16) + zero_point(grid)).astype(np.int8)

    def unstored(self, name: str, stored: np.ndarray) -> np.ndarray:
        """Return the codes that the variants return, in int16."""
        grid = self.grids[name]
        if self.constants == "float":
            return np.round(stored / grid.scale).astype(np.int16)
        return stored.astype(np.int16) - zero_point(grid)


def zero_point(grid: InputGrid) -> int:
    """Return the int8 of code 0."""
    return 0 if grid.low < 0 else LOW


def rewrite(network: Network, constants: Literal["int8", "float"] = "int8") -> Rewritten:
    """Return a network in quantize and dequantize operators.

    Args:
        network: The network.
        constants: Type of the constants of weights in integers; "float" has values on the grid
            behind quantize_per_channel, for converters that take no int8 constants.

    Raises:
        ExportError: torch.export cannot express it.
    """
    folded = network.folded
    module, example, outputs = _exported(network)
    makers, last = made_by(folded.traced.graph, folded.inputs)
    made = Rewritten(
        module=module,
        example=example,
        outputs=outputs,
        codes={},
        grids={},
        integer={},
        constants=constants,
        made_by=makers,
        last=last,
    )
    sites = {site.name: site for site in folded.sites}
    inputs = list(folded.inputs.values())
    integer = {site.name: integer_biases(site, folded.inputs, "int8") for site in folded.sites}
    made.integer = {name: each for name, each in integer.items() if each is not None}
    made.weights = {name: site.layer.name for name, site in sites.items()}
    markers = _markers(module.graph)
    _drop_activations(markers)
    _quantize_inputs(made, markers, inputs)
    for name, node in markers[WEIGHT].items():
        _write_weight(made, node, sites[name], integer[name])
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return made


def _exported(network: Network) -> tuple[fx.GraphModule, tuple[Tensor, ...], list[str]]:
    example = network.example.rows(0, 1).to(torch.device("cpu"))
    names: list[str] = []

    def note(found: Any) -> None:
        names[:] = found

    function = OfTensors(marked_copy(network.model), example, note).eval()
    tensors = tuple(example.tensors.values())
    try:
        with quiet(), torch.no_grad():
            module = torch.export.export(function, tensors).module()
    except Exception as error:  # torch.export raises many kinds
        raise not_expressible(type(network.model).__name__, error) from None
    assert_ = [node for node in module.graph.nodes if node.target == "_guards_fn"]
    for node in assert_:  # it checks shapes
        module.graph.erase_node(node)
    return module, tensors, names  # pyright: ignore[reportReturnType]


def _markers(graph: fx.Graph) -> dict[str, dict[str, fx.Node]]:
    """Return the nodes of quantizers: kind to name of the use to node, in the order of calls."""
    found: dict[str, dict[str, fx.Node]] = {INPUT: {}, WEIGHT: {}}
    calls = {kind: Counter[str]() for kind in found}
    for node in graph.nodes:
        if node.op == "call_function" and "onnx_symbolic" in str(node.target):
            kind = str(node.args[1]).removeprefix(f"{DOMAIN}::")
            (layer,) = _texts(node)
            found[kind][numbered(layer, calls[kind])] = node
    return found


def _texts(node: fx.Node) -> list[str]:
    """Return the attributes of a marker that are texts: the name of its layer."""
    return list(node.kwargs["attr_strs"])  # pyright: ignore[reportArgumentType]


def _input(node: fx.Node) -> fx.Node:
    """Return what a marker reads."""
    return node.args[0][0]  # pyright: ignore[reportIndexIssue, reportReturnType, reportOptionalSubscript, reportArgumentType]


def _drop_activations(markers: Mapping[str, Mapping[str, fx.Node]]) -> None:
    """Take out activation functions that only quantizers read; `folded` has them as limits."""
    quantizers = set(markers[INPUT].values())
    for node in quantizers:
        source = _input(node)
        kind = str(source.target).partition(".")[2].partition(".")[0]
        if source.op == "call_function" and kind in ACTIVATIONS and set(source.users) <= quantizers:
            source.replace_all_uses_with(source.args[0])  # pyright: ignore[reportArgumentType]
            source.graph.erase_node(source)  # one in place would not count as dead code


def _quantize_inputs(
    made: Rewritten, markers: Mapping[str, Mapping[str, fx.Node]], inputs: list[QuantizedInput]
) -> None:
    graph = made.module.graph
    operators = torch.ops.quantized_decomposed
    first = {reader: each for each in inputs for reader in each.readers}
    for name, node in markers[INPUT].items():
        each = first[name]
        scale, zero = float(each.grid.scale), zero_point(each.grid)
        arguments = (scale, zero, LOW, HIGH, torch.int8)
        with graph.inserting_before(node):
            if each.name not in made.codes:
                value = _input(node)
                if (each.low + zero, each.high + zero) != (LOW, HIGH):
                    ends = (each.low * scale, each.high * scale)
                    value = graph.call_function(torch.ops.aten.hardtanh.default, (value, *ends))
                made.codes[each.name] = graph.call_function(
                    operators.quantize_per_tensor.default, (value, *arguments)
                )
                made.grids[each.name] = each.grid
            # one for each reader: a reader in integers takes it in, another one keeps it
            values = graph.call_function(
                operators.dequantize_per_tensor.default, (made.codes[each.name], *arguments)
            )
        node.replace_all_uses_with(values)
        graph.erase_node(node)


def _write_weight(
    made: Rewritten,
    marker: fx.Node,
    site: Site,
    integers: IntegerBiases | None,
) -> None:
    graph, module = made.module.graph, made.module
    key = site.name.replace(".", "_").replace(":", "_")
    shape = _along(site)
    sign = np.ones(1) if integers is None else np.where(integers.scale < 0, -1, 1)
    factor = site.scale if integers is None else sign * integers.multiple
    made.factors[site.name] = factor.reshape(shape)
    stored = made.stored_weight(site.name, site.layer.codes)
    with graph.inserting_before(marker):
        if integers is None:
            weight = _constant(module, f"{key}_weight", stored)
        else:
            steps = np.abs(integers.scale)
            zeros = np.zeros(len(sign), dtype=np.int64)
            grid = (
                _constant(module, f"{key}_steps", steps),
                _constant(module, f"{key}_zeros", zeros),
                *(0, WEIGHT_LOW, HIGH, torch.int8),
            )
            operators = torch.ops.quantized_decomposed
            if made.constants == "int8":
                codes = _constant(module, f"{key}_codes", stored)
            else:
                values = stored.astype(np.float32) * steps.reshape(shape)
                codes = graph.call_function(
                    operators.quantize_per_channel.default,
                    (_constant(module, f"{key}_weight", values), *grid),
                )
            weight = graph.call_function(operators.dequantize_per_channel.default, (codes, *grid))
    marker.replace_all_uses_with(weight)
    graph.erase_node(marker)
    if site.node is None or site.kind == "other":
        return
    (layer,) = weight.users
    if site.normed:
        (norm,) = layer.users
        norm.replace_all_uses_with(layer)
    bias = site.bias
    if integers is not None:
        bias = integers.bias.astype(np.float64) * integers.bias_scale.astype(np.float64)
    if bias is None:
        return
    with graph.inserting_before(layer):
        added = _constant(module, f"{key}_bias", bias.astype(np.float32))
    layer.args = (*layer.args[:2], added, *layer.args[3:])


def _along(site: Site) -> tuple[int, ...]:
    """Return the shape of the scales that broadcasts to the weight."""
    shape = [1] * site.layer.codes.ndim
    shape[1 if site.layer.transposed else 0] = -1  # one scale, or one for each channel
    return tuple(shape)


def _constant(module: nn.Module, name: str, array: np.ndarray) -> fx.Node:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    module.register_buffer(name, tensor)
    return module.graph.get_attr(name)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
