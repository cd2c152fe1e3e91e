"""Reads the weight codes in an ONNX file whose weights pass through DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quiesce.errors import AttachError
from quiesce.extras import require
from quiesce.files.untrusted.onnx_graphs import read_onnx


class OnnxWeight(NamedTuple):
    """A constant input of a DequantizeLinear node."""

    node: str
    """The names of the node and of its inputs, in which exporters put the name of the layer."""
    codes: Tensor
    """Integral floats."""
    scale: Tensor
    """Broadcastable to the codes."""
    zero_point: Tensor
    """Broadcastable to the codes."""


def onnx_weights(path: str | Path) -> list[OnnxWeight]:
    """Return the constant inputs of the DequantizeLinear nodes of a file.

    A QuantizeLinear node between a float constant and DequantizeLinear is computed.

    Raises:
        AttachError: The file cannot be read.
    """
    return list(_weights(_graph(path)))


def constants(path: str | Path) -> dict[str, Tensor]:
    """Return the constants of a file, by name, as float32.

    Raises:
        AttachError: The file can not be read.
    """
    arrays = _constants(_graph(path))
    return {name: torch.from_numpy(each.astype("float32")) for name, each in arrays.items()}


def _graph(path: str | Path) -> Any:
    require("onnx", "reading an ONNX file", "onnx")
    try:
        return _read(Path(path), Path(path).stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise AttachError(f"{path} is not a readable ONNX file: {error}") from error


@lru_cache(maxsize=1)
def _read(path: Path, _: int) -> Any:
    """Read a file once for all of its layers, as long as it does not change."""
    return read_onnx(path).graph


def _constants(graph: Any) -> dict[str, Any]:
    from onnx import numpy_helper

    known = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return known


def _weights(graph: Any) -> Iterator[OnnxWeight]:
    known = _constants(graph)
    made = {output: node for node in graph.node for output in node.output}

    def value(name: str) -> Tensor | None:
        """Return a constant, after QuantizeLinear and Clip, or None if it is not constant."""
        if name in known:
            return torch.from_numpy(known[name].astype("float32"))
        node = made.get(name)
        if node is None or node.op_type not in ("QuantizeLinear", "Clip", "Identity", "Cast"):
            return None
        x, *rest = (value(each) for each in node.input)
        if x is None or any(each is None for each in rest):
            return None
        if node.op_type == "Clip":
            return x.clamp(rest[0], rest[1])
        if node.op_type == "QuantizeLinear":
            scale, zero = (_along(each, x, node) for each in rest)
            dtype = str(known[node.input[2]].dtype)
            span = (0, 255) if dtype == "uint8" else (-128, 127)
            return (torch.round(x / scale) + zero).clamp(*span)
        return x

    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            codes, scale, *zero = (value(name) for name in node.input)
            if codes is None or scale is None:
                continue  # of an activation
            first = zero[0] if zero else None
            zero_point = torch.zeros(()) if first is None else _along(first, codes, node)
            name = " ".join([node.name, *node.input]).replace("/", ".")
            yield OnnxWeight(name, codes, _along(scale, codes, node), zero_point)


def _along(values: Any, of: Tensor, node: Any) -> Tensor:
    """Return scales or zero points of channels so that they broadcast to the tensor."""
    if values.numel() == 1:
        return values.reshape(())
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    shape = [1] * of.dim()
    shape[axis] = -1
    return values.reshape(shape)
