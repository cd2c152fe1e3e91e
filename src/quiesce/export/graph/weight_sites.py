"""Finds the uses of quantized weights in a traced graph, and extracts their biases."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from quiesce.export.biases.layer_integers import LayerIntegers
from quiesce.export.graph.edits import Builder, constant, replace, sole_use
from quiesce.export.graph.tracing import DOMAIN, INPUT, OWN, WEIGHT, layer_of, markers

if TYPE_CHECKING:
    import onnx_ir as ir

Kind = Literal["convolution", "linear", "other"]


@dataclass(kw_only=True, eq=False)
class Site:
    """A use of a quantized weight: y = node(x, scale * codes) + bias."""

    name: str
    """Name of the layer, with ":2" and so on for further calls."""
    layer: LayerIntegers
    marker: "ir.Node"
    """The QuantizeWeight node."""
    node: "ir.Node | None"
    """The Conv, ConvTranspose or MatMul that reads the weight; None for the kind "other"."""
    kind: Kind
    """"linear": there is a transposition after `marker`; "other": an unknown use, of which only the
    weight changes."""
    scale: np.ndarray
    """float64 (1,) or (channels,): floats per code, negative where a batch norm changed the sign.
    """
    bias: np.ndarray | None = None
    """float64 (channels,), taken out of the graph."""
    turned: bool = False
    """Whether the file holds the codes transposed, as for a linear layer and layers that share its
    codes."""
    bias_parameter: str | None = None
    """Name of the parameter that is added to the output as part of `bias`."""
    normed: bool = False
    """Whether a batch norm was folded into `scale` and `bias`."""

    @property
    def per_channel(self) -> np.ndarray:
        """`scale` as (channels,)."""
        return np.broadcast_to(self.scale, (self.layer.channels,))

    @property
    def channel_codes(self) -> np.ndarray:
        """Codes as (channels, weights of a channel); not for transposed convolutions."""
        return self.layer.codes.reshape(self.layer.channels, -1)


def find_sites(graph: "ir.Graph", layers: Mapping[str, LayerIntegers]) -> list[Site]:
    """Return the uses of all quantized weights, in the order of the graph.

    The biases of convolutions and linear layers are moved from the graph to the sites.
    """
    split_gemm(graph)
    calls: Counter[str] = Counter()
    sites = []
    for marker in markers(graph, WEIGHT):
        name = numbered(layer_of(marker), calls)
        site = _site(name, layers[layer_of(marker)], marker)
        _take_bias(site)
        sites.append(site)
    linear = {site.layer.shared_with for site in sites if site.kind == "linear"}
    for site in sites:
        site.turned = site.layer.codes.ndim == 2 and site.layer.shared_with in linear
    return sites


def numbered(layer: str, calls: "Counter[str]") -> str:
    """Return the name of the next call of a layer: "conv", then "conv:2"."""
    calls[layer] += 1
    return layer if calls[layer] == 1 else f"{layer}:{calls[layer]}"


def input_of(site: Site) -> "ir.Node | None":
    """Return the QuantizeInput node that feeds a site directly, or None."""
    if site.node is None or (value := site.node.inputs[0]) is None:
        return None
    node = value.producer()
    marks = node is not None and node.domain == DOMAIN and node.op_type == INPUT
    return node if marks else None


def parameter_name(value: "ir.Value | None") -> str | None:
    """Return the name of an initializer in the traced network, or None for another value."""
    if value is None or value.name is None or not value.is_initializer():
        return None
    return value.name.removeprefix(OWN)


def split_gemm(graph: "ir.Graph") -> None:
    """Split each Gemm(x, weight, bias) of a quantized weight into a MatMul and an Add.

    ONNX Runtime would round a float bias inside a quantized Gemm or Conv to int32, at a scale where
    one unit is a large part of a code at few bits.
    """
    for marker in markers(graph, WEIGHT):
        node = sole_use(marker.outputs[0])
        if node is None or node.op_type != "Gemm" or not _is_linear_gemm(node):
            continue
        build = Builder(graph, before=node)
        name = node.outputs[0].name or "gemm"
        x, weight, bias = node.inputs[0], node.inputs[1], [*node.inputs, None][2]
        turned = build.node("Transpose", [weight], f"{name}.weight", perm=[1, 0])
        made = build.node("MatMul", [x, turned], f"{name}.product", like=node.outputs[0])
        if bias is not None:
            made = build.node("Add", [made, bias], f"{name}.sum", like=made)
        replace(node, made)


def _is_linear_gemm(node: "ir.Node") -> bool:
    def number(name: str, default: float) -> float:
        found = node.attributes.get(name)
        return default if found is None else found.value

    return (
        number("alpha", 1.0) == 1.0
        and number("beta", 1.0) == 1.0
        and not number("transA", 0)
        and bool(number("transB", 0))
    )


def _site(name: str, layer: LayerIntegers, marker: "ir.Node") -> Site:
    node = sole_use(marker.outputs[0])
    kind: Kind = "other"
    if node is not None and node.op_type in ("Conv", "ConvTranspose"):
        kind = "convolution" if node.inputs[1] is marker.outputs[0] else "other"
    elif node is not None and node.op_type == "Transpose":
        product = sole_use(node.outputs[0])
        if product is not None and product.op_type == "MatMul" and layer.codes.ndim == 2:
            kind, node = "linear", product
    return Site(
        name=name,
        layer=layer,
        marker=marker,
        node=None if kind == "other" else node,
        kind=kind,
        scale=layer.scale.astype(np.float64),
    )


def _take_bias(site: Site) -> None:
    node = site.node
    if node is None:
        return
    if site.kind == "convolution":
        if len(node.inputs) > 2 and (bias := constant(node.inputs[2])) is not None:
            site.bias = bias.astype(np.float64)
            site.bias_parameter = parameter_name(node.inputs[2])
            node.resize_inputs(2)
        return
    after = sole_use(node.outputs[0])
    if after is None or after.op_type != "Add":
        return
    other = next((v for v in after.inputs if v is not node.outputs[0]), None)
    bias = constant(other)
    if bias is not None and bias.shape == (site.layer.channels,):
        site.bias = bias.astype(np.float64)
        replace(after, node.outputs[0])
