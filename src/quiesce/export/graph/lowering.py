"""Replaces the nodes of the domain `quiesce` by ONNX operators that runtimes fuse.

Each quantized input becomes QuantizeLinear, Clip between integers, DequantizeLinear. Each weight
becomes an integer initializer and operators that convert it to floats. The bias of a layer becomes

- an int32 initializer at scale input * weight with a DequantizeLinear, if `biases` finds one that
  changes no code: ONNX Runtime then runs one integer convolution;
- a float bias of the convolution, if the input is float;
- otherwise a subtraction of the negative bias, in float.

ONNX Runtime takes a float bias of a convolution, or an addition after a product, into the quantized
operator by rounding it to int32, which at few bits changes several percent of all codes. It does
not do so with a subtraction. A convolution of codes has one even if its bias is 0: otherwise ONNX
Runtime would make it an integer convolution that `biases` has not checked, whose sums of 8-bit
products may overflow. (This happens without a DequantizeLinear too: ONNX Runtime quantizes a
constant weight between a DequantizeLinear and a QuantizeLinear itself.)

Zero points that are 0 are not written, because that is the default.

Tensor names describe the content: <layer>.weight_codes, .weight_scale, .input_codes, ...
"""

from typing import TYPE_CHECKING

import numpy as np

from quiesce.export.biases.integer_biases import PAIR_MAX, IntegerBiases, find_biases
from quiesce.export.graph.edits import Builder, onnx_ir, replace
from quiesce.export.graph.quantized_inputs import QuantizedInput, between_quantizers
from quiesce.export.graph.weight_sites import Site
from quiesce.export.packing import Pack, container

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir


def integer_biases(
    site: Site, inputs: "Mapping[ir.Node, QuantizedInput]", pack: Pack
) -> IntegerBiases | None:
    """Return the integer biases of a site, or None if its bias stays float.

    They exist if it is a convolution between quantizers, its weight is int8, and `find_biases`
    finds them.
    """
    between = between_quantizers(site, inputs)
    if between is None or container(site.layer.bits, pack) != np.int8:
        return None
    bias = np.zeros(site.layer.channels) if site.bias is None else site.bias
    return find_biases(site.per_channel, bias, site.channel_codes, *between)


def lower_input(graph: "ir.Graph", quantized: QuantizedInput) -> None:
    """Write QuantizeLinear, Clip and DequantizeLinear for one quantized input."""
    grid, name, marker = quantized.grid, quantized.name, quantized.marker
    build = Builder(graph, before=marker)
    scale = build.constant(f"{name}.input_scale", np.asarray(grid.scale, dtype=np.float32))
    zero = build.constant(f"{name}.input_zero", np.asarray(grid.zero_point, dtype=np.uint8))
    value = marker.inputs[0]
    offset = None
    if grid.offset is not None:  # LSQ+: the value of code 0 is not a multiple of the scale
        offset = build.constant(f"{name}.input_offset", np.asarray(grid.offset, dtype=np.float32))
        value = build.node("Sub", [value, offset], f"{name}.input_shifted")
    low, high = quantized.low + grid.zero_point, quantized.high + grid.zero_point
    if (low, high) == (0, np.iinfo(np.uint8).max):  # QuantizeLinear clips there
        codes = build.node("QuantizeLinear", [value, scale, zero], f"{name}.input_codes")
    else:
        wide = build.node("QuantizeLinear", [value, scale, zero], f"{name}.input_rounded")
        ends = [
            build.constant(f"{name}.input_{end}", np.asarray(number, dtype=np.uint8))
            for end, number in (("low", low), ("high", high))
        ]
        codes = build.node("Clip", [wide, *ends], f"{name}.input_codes")
    made = build.node("DequantizeLinear", [codes, scale, zero], f"{name}.input")
    if offset is not None:
        made = build.node("Add", [made, offset], f"{name}.input_unshifted")
    replace(marker, made)


def lower_weight(graph: "ir.Graph", site: Site, pack: Pack, biases: IntegerBiases | None) -> str:
    """Write the weight of a site as integers, and its bias as `biases` or as a float subtraction.

    Returns:
        Name of the initializer with the codes.
    """
    linear = site.kind == "linear"
    codes = site.layer.codes.T if site.turned else site.layer.codes
    scale = site.scale.astype(np.float32)
    shared = site.node is not None or site.turned
    holds = f"{site.layer.shared_with if shared else site.name}.weight_codes"
    if biases is not None:
        shape = (-1, *(1,) * (codes.ndim - 1))
        codes = codes.astype(np.int64) * biases.multiple.reshape(shape)
        scale = biases.scale
        holds = f"{site.name}.weight_multiples"
    holder = container(site.layer.bits, pack)
    build = Builder(graph, before=site.marker)
    integers = build.constant(holds, codes.astype(holder))
    if site.layer.group_size is not None:
        weight = _grouped_values(build, site, integers, scale)
    else:
        if site.turned and not linear:  # an embedding that shares the codes of a linear layer
            integers = build.node("Transpose", [integers], f"{site.name}.weight_rows", perm=[1, 0])
        scale = scale if scale.size > 1 else scale.reshape(())
        as_codes = biases is not None or (
            linear and holder == np.int8 and _is_integer_product(site)
        )
        weight = _values(build, site, integers, scale, taken_as_codes=as_codes)
    if linear and site.node is not None:
        transposition = site.node.inputs[1].producer()  # pyright: ignore[reportOptionalMemberAccess]
        replace(transposition, weight)  # pyright: ignore[reportArgumentType]
        graph.remove(site.marker, safe=True)
    else:
        replace(site.marker, weight)
    if biases is not None:
        _integer_bias(graph, site, biases)
    elif site.bias is not None and site.kind == "convolution" and site.layer.input is None:
        _own_bias(graph, site, site.bias)
    elif site.bias is not None:
        _subtracted_bias(graph, site, site.bias)
    elif site.kind == "convolution" and site.layer.input is not None:
        _subtracted_bias(graph, site, np.zeros(site.layer.channels))
    return holds


def _values(
    build: Builder, site: Site, integers: "ir.Value", scale: np.ndarray, *, taken_as_codes: bool
) -> "ir.Value":
    """Return the values of a weight: with DequantizeLinear if an integer operator takes the codes.

    Otherwise with Cast and Mul, which runtimes compute once, when they load the file. ONNX Runtime
    keeps a DequantizeLinear for integer operators: it would convert the weight in every run and not
    use its float kernels, or make MatMulNBits of it and a product with floats, which rounds the
    floats to 8 bits (the option session.qdq_matmulnbits_accuracy_level is 4 by default).
    """
    values = f"{site.name}.weight_values"
    axis = 1 if site.kind == "linear" or site.layer.transposed else 0
    if taken_as_codes:
        steps = build.constant(f"{site.name}.weight_scale", scale)
        return build.node("DequantizeLinear", [integers, steps], values, axis=axis)
    shape = [1] * site.layer.codes.ndim
    shape[axis] = scale.size
    along = scale.reshape(shape) if scale.size > 1 else scale
    steps = build.constant(f"{site.name}.weight_scale", along)
    floating = onnx_ir().DataType.FLOAT
    floats = build.node("Cast", [integers], f"{site.name}.weight_floats", to=floating)
    return build.node("Mul", [floats, steps], values)


def _grouped_values(
    build: Builder, site: Site, integers: "ir.Value", scale: np.ndarray
) -> "ir.Value":
    """Return the values of a weight with one scale per group of inputs.

    Codes of 4 bits and fewer have a DequantizeLinear in blocks, which runtimes fuse with the
    product. ONNX Runtime then rounds the other operand to 8 bits unless
    session.qdq_matmulnbits_accuracy_level is 1. Codes in int8 have Cast and Mul: ONNX Runtime takes
    a DequantizeLinear of int8 between quantizers for one without blocks, and fails.
    """
    values, size = f"{site.name}.weight_values", site.layer.group_size
    columns = site.turned and site.kind != "linear"  # an embedding that shares the codes
    name = f"{site.name}.weight_columns" if columns else values
    axis = 0 if site.turned else 1
    steps = scale.T if site.turned else scale
    given = build.constant(f"{site.name}.weight_scale", steps)
    if integers.dtype != onnx_ir().DataType.INT8:
        made = build.node("DequantizeLinear", [integers, given], name, axis=axis, block_size=size)
    else:
        shape = site.layer.codes.T.shape if site.turned else site.layer.codes.shape
        parts = (*shape[:axis], steps.shape[axis], size, *shape[axis + 1 :])
        split = build.constant(f"{site.name}.weight_split", np.array(parts))
        spread = build.constant(f"{site.name}.weight_spread", np.array([axis + 1]))
        whole = build.constant(f"{site.name}.weight_shape", np.array(shape))
        floating = onnx_ir().DataType.FLOAT
        floats = build.node("Cast", [integers], f"{site.name}.weight_floats", to=floating)
        groups = build.node("Reshape", [floats, split], f"{site.name}.weight_groups")
        along = build.node("Unsqueeze", [given, spread], f"{site.name}.weight_steps")
        product = build.node("Mul", [groups, along], f"{site.name}.weight_products")
        made = build.node("Reshape", [product, whole], name)
    return build.node("Transpose", [made], values, perm=[1, 0]) if columns else made


def _is_integer_product(site: Site) -> bool:
    """Return whether a runtime may multiply the integers of a linear layer and of its input.

    The layer must read a DequantizeLinear, with no offset in between, and no two products of
    integers may exceed the 16 bits of processors without VNNI.
    """
    value = None if site.node is None else site.node.inputs[0]
    feeder = None if value is None else value.producer()
    grid = site.layer.input
    if feeder is None or feeder.op_type != "DequantizeLinear" or grid is None:
        return False
    largest = int(np.abs(site.layer.codes.astype(np.int64)).max(initial=0))
    return 2 * largest * (grid.high + grid.zero_point) <= PAIR_MAX


def _integer_bias(graph: "ir.Graph", site: Site, biases: IntegerBiases) -> None:
    node: ir.Node = site.node  # pyright: ignore[reportAssignmentType]
    build = Builder(graph, before=node)
    parts = [
        build.constant(f"{site.name}.folded_bias", biases.bias),
        build.constant(f"{site.name}.bias_scale", biases.bias_scale),
    ]
    value = build.node("DequantizeLinear", parts, f"{site.name}.bias_values", axis=0)
    node.resize_inputs(3)
    node.replace_input_with(2, value)


def _own_bias(graph: "ir.Graph", site: Site, bias: np.ndarray) -> None:
    node: ir.Node = site.node  # pyright: ignore[reportAssignmentType]
    build = Builder(graph, before=node)
    node.resize_inputs(3)
    node.replace_input_with(2, build.constant(f"{site.name}.own_bias", bias.astype(np.float32)))


def _subtracted_bias(graph: "ir.Graph", site: Site, bias: np.ndarray) -> None:
    node: ir.Node = site.node  # pyright: ignore[reportAssignmentType]
    spatial = 0 if site.kind == "linear" else site.layer.codes.ndim - 2
    number = -bias.astype(np.float32).reshape(-1, *(1,) * spatial)
    build = Builder(graph, after=node)
    old = node.outputs[0]
    if old.is_graph_output():  # the sum gets its name
        old.name = f"{site.name}.product"
    readers = list(old.uses())
    parts = [old, build.constant(f"{site.name}.minus_bias", number)]
    made = build.node("Sub", parts, f"{site.name}.sum", like=old)
    for reader, place in readers:
        reader.replace_input_with(place, made)
    for place, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[place] = made
