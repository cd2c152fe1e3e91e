"""The layers of a file: integers of the weight, floats per integer, and bias."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.audit.tflite_layers import tflite_layers
from quiesce.export.audit.values import FileLayer
from quiesce.extras import require
from quiesce.files.untrusted.onnx_graphs import read_onnx

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def layers_of(path: Path) -> list[FileLayer]:
    """Return the layers of an ONNX, QONNX or .tflite file, in the order of computation.

    Raises:
        ExportError: The file is missing or damaged, or of a kind that is not read.
        MissingExtraError: A package that reads it is not installed.
    """
    if not path.is_file():
        raise ExportError(f"{path} is not a file")
    if path.suffix == ".tflite":
        return tflite_layers(path)
    if path.suffix == ".onnx":
        try:
            return _Graph(read_onnx(path)).layers()
        except ValueError as error:
            raise ExportError(f"{path} is damaged or not an ONNX file ({error})") from error
    raise ExportError(
        f"{path}: quiesce audit reads .onnx and .tflite files, got {path.suffix or 'no suffix'}"
    )


@dataclass(frozen=True)
class _Weight:
    """A constant: integers times steps."""

    integers: np.ndarray
    steps: np.ndarray
    """Broadcastable to `integers`."""

    @property
    def values(self) -> np.ndarray:
        return self.integers * self.steps


class _Graph:
    """An ONNX graph whose weights are read through the operators before them."""

    def __init__(self, proto: Any) -> None:
        helper = require("onnx.numpy_helper", "reading an ONNX file", "onnx")
        self._nodes = list(proto.graph.node)
        self._arrays = {each.name: helper.to_array(each) for each in proto.graph.initializer}
        self._source = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def layers(self) -> list[FileLayer]:
        """Return all layers with a constant weight."""
        found = []
        for node in self._nodes:
            weight = self._weight(node.input[1]) if node.op_type in LAYERS else None
            if weight is None or weight.integers.ndim < 2:
                continue
            turned = node.op_type == "MatMul" or (
                node.op_type == "Gemm" and not _attributes(node).get("transB", 0)
            )
            if turned:
                weight = _Weight(weight.integers.T, _turned(weight.steps))
            channel = 1 if node.op_type == "ConvTranspose" else 0
            factor, bias = self._bias(node, weight.integers.shape[channel])
            shape = [1] * weight.integers.ndim
            shape[channel] = -1
            found.append(
                FileLayer(
                    name=node.name or node.output[0],
                    integers=weight.integers,
                    steps=np.broadcast_to(
                        weight.steps * factor.reshape(shape), weight.integers.shape
                    ),
                    bias=bias,
                )
            )
        return found

    def _weight(self, name: str) -> _Weight | None:
        """Return a constant, or None for a computed value."""
        if name in self._arrays:
            array = self._arrays[name].astype(np.float64)
            return _Weight(array, np.ones([1] * array.ndim))
        node = self._source.get(name)
        if node is None:
            return None
        first = self._weight(node.input[0]) if node.input else None
        if first is None:
            return None
        if node.op_type == "Quant":  # values on a grid
            steps = self._numbers(node, 1)
            return _Weight(np.round(first.values / steps), steps)
        if node.op_type == "DequantizeLinear":
            steps = self._numbers(node, 1)
            if steps.ndim == 1 and steps.size > 1:
                shape = [1] * first.integers.ndim
                shape[_attributes(node).get("axis", 1)] = -1
                steps = steps.reshape(shape)
            zero = self._numbers(node, 2) if len(node.input) > 2 and node.input[2] else 0
            return _Weight(first.integers - zero, steps)
        if node.op_type == "Mul":
            return _Weight(first.integers, first.steps * self._numbers(node, 1))
        if node.op_type == "Transpose":
            axes = _attributes(node).get("perm", range(first.integers.ndim)[::-1])
            steps = np.broadcast_to(first.steps, first.integers.shape)
            return _Weight(first.integers.transpose(axes), steps.transpose(axes))
        return first if node.op_type in ("Cast", "Identity") else None

    def _numbers(self, node: Any, place: int) -> np.ndarray:
        found = self._weight(node.input[place])
        return np.ones(1) if found is None else found.values

    def _bias(self, node: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the factor and the bias of each channel, with what directly follows the layer."""
        factor, bias = np.ones(channels), np.zeros(channels)
        if len(node.input) > 2 and (own := self._weight(node.input[2])) is not None:
            bias = bias + own.values.reshape(-1)
        readers = self._readers.get(node.output[0], [])
        if len(readers) != 1:
            return factor, bias
        after = readers[0]
        if after.op_type == "BatchNormalization":
            gamma, beta, mean, var = (self._numbers(after, place) for place in range(1, 5))
            factor = gamma / np.sqrt(var + _attributes(after).get("epsilon", 1e-5))
            bias = (bias - mean) * factor + beta
        elif after.op_type in ("Add", "Sub"):
            other = [name for name in after.input if name != node.output[0]]
            added = self._weight(other[0]) if other else None
            if added is not None and added.integers.size == channels:
                sign = -1 if after.op_type == "Sub" else 1
                bias = bias + sign * added.values.reshape(-1)
        return factor, bias


def _turned(steps: np.ndarray) -> np.ndarray:
    return steps.T if steps.ndim == 2 else steps


def _attributes(node: Any) -> Mapping[str, Any]:
    helper = require("onnx.helper", "reading an ONNX file", "onnx")
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
