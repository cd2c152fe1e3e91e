"""Runs a graph with Quant nodes in the executor of the package qonnx."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quiesce.export.interface import Example
from quiesce.export.targets.qonnx.quant_nodes import VALUES, WEIGHT_VALUES, Written
from quiesce.export.verification.trained_codes import Computed, as_array
from quiesce.extras import require

FED = ".fed_values"


def with_batch(proto: Any, count: int) -> Any:
    """Return a copy of an onnx.ModelProto whose dynamic batch size is fixed."""
    fixed = type(proto)()
    fixed.CopyFrom(proto)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = count
    return fixed


class QonnxRunner:
    """A graph with Quant nodes in qonnx's executor.

    Args:
        written: The graph.
    """

    def __init__(self, written: Written) -> None:
        self._written = written
        self._proto = written.proto
        self._outputs = [output.name for output in written.proto.graph.output]
        self._ready: dict[Any, Any] = {}

    def check_inputs(self, example: Example) -> None:
        """Do nothing: the graph was traced with these arguments."""

    def whole(self, example: Example) -> Computed:
        """Run the whole graph."""
        return self._run(self._proto, "whole", example, {})

    def layers(self, example: Example, codes: Mapping[str, np.ndarray]) -> dict[str, Computed]:
        """Run every layer on `codes`."""
        fed = {
            name: grid.scale * codes[name].astype(np.float32)
            for name, grid in self._written.grids.items()
        }
        return {"qonnx": self._run(_cut(self._proto, fed), "cut", example, fed)}

    def weight_codes(self) -> dict[str, np.ndarray]:
        """Return the codes that the Quant nodes of the weights give, by the uses of weights."""
        onnx = require("onnx", "reading QONNX", "onnx")
        quant = require("qonnx.custom_op.general.quant", "reading QONNX", "qonnx").quant
        arrays = {i.name: onnx.numpy_helper.to_array(i) for i in self._proto.graph.initializer}
        found = {}
        for node in self._proto.graph.node:
            if node.op_type == "Quant" and node.output[0].endswith(WEIGHT_VALUES):
                values, scale, zero, bits = (arrays[name] for name in node.input)
                made = quant(values, scale, zero, bits, True, False, "ROUND")
                found[node.output[0].removesuffix(WEIGHT_VALUES)] = np.round(made / scale)
        return found

    def _run(
        self, proto: Any, way: str, example: Example, fed: Mapping[str, np.ndarray]
    ) -> Computed:
        executor = require("qonnx.core.onnx_exec", "running QONNX", "qonnx")
        shapes = (way, *(tuple(t.shape) for t in example.tensors.values()))
        if shapes not in self._ready:
            self._ready[shapes] = _prepared(with_batch(proto, example.size))
        feed = {name: as_array(tensor) for name, tensor in example.tensors.items()}
        feed |= {name + FED: array for name, array in fed.items()}
        context = executor.execute_onnx(self._ready[shapes], feed, return_full_exec_context=True)
        codes = {
            name: np.round(context[name + VALUES] / grid.scale).astype(np.int16)
            for name, grid in self._written.grids.items()
        }
        return Computed(codes, {name: context[name] for name in self._outputs})


def executed(proto: Any) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that runs a graph for a batch of one, input by input."""
    executor = require("qonnx.core.onnx_exec", "running QONNX", "qonnx")
    model = _prepared(proto)
    names = [output.name for output in proto.graph.output]

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(next(iter(feed.values())))
        made = [
            executor.execute_onnx(model, {name: x[i : i + 1] for name, x in feed.items()})
            for i in range(count)
        ]
        return {name: np.concatenate([each[name] for each in made]) for name in names}

    return run


def _prepared(proto: Any) -> Any:
    """Return a qonnx ModelWrapper with the shapes of all tensors."""
    wrapper = require("qonnx.core.modelwrapper", "running QONNX", "qonnx").ModelWrapper
    shapes = require("qonnx.transformation.infer_shapes", "running QONNX", "qonnx").InferShapes
    return wrapper(proto).transform(shapes())


def _cut(proto: Any, fed: Mapping[str, np.ndarray]) -> Any:
    """Return a copy in which readers of quantized inputs read inputs of the graph instead."""
    onnx = require("onnx", "running QONNX", "onnx")
    cut = type(proto)()
    cut.CopyFrom(proto)
    for node in cut.graph.node:
        for place, value in enumerate(node.input):
            if value.endswith(VALUES) and value.removesuffix(VALUES) in fed:
                node.input[place] = value.removesuffix(VALUES) + FED
    kind = onnx.TensorProto.FLOAT
    for name, array in fed.items():
        cut.graph.input.append(
            onnx.helper.make_tensor_value_info(name + FED, kind, list(array.shape))
        )
    return cut
