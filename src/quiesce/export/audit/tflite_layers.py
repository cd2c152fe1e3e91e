"""The layers of a .tflite file."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError, first_line
from quiesce.export.audit.values import FileLayer
from quiesce.export.graph.tracing import quiet
from quiesce.extras import require

KINDS = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2), "FULLY_CONNECTED": (0, 1)}
"""Operators, and the order of the axes of their weights in torch."""
TYPES = {"FLOAT32": np.float32, "INT8": np.int8, "INT32": np.int32, "FLOAT16": np.float16}


def tflite_layers(path: Path) -> list[FileLayer]:
    """Return the layers of a .tflite file, in the order of computation.

    Raises:
        ExportError: The file is damaged.
        MissingExtraError: ai-edge-litert is not installed.
    """
    with quiet():
        schema = require("ai_edge_litert.schema_py_generated", "reading a .tflite file", "tflite")
    try:
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        return _layers(schema, model)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise ExportError(f"{path} is damaged or no .tflite file ({first_line(error)})") from error


def _layers(schema: Any, model: Any) -> list[FileLayer]:
    kinds = _names(schema.BuiltinOperator)
    types = _names(schema.TensorType)
    graph = model.subgraphs[0]

    def constant(place: int) -> tuple[np.ndarray, np.ndarray] | None:
        tensor = graph.tensors[place]
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return None
        array = np.frombuffer(bytes(data), dtype=TYPES[types[tensor.type]])
        array = array.reshape(tensor.shape).astype(np.float64)
        shape = [1] * array.ndim
        steps = np.ones(shape)
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            shape[tensor.quantization.quantizedDimension] = -1
            steps = np.asarray(tensor.quantization.scale, dtype=np.float64).reshape(shape)
        return array, np.broadcast_to(steps, array.shape)

    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = kinds.get(max(code.builtinCode, code.deprecatedBuiltinCode))
        weight = constant(operator.inputs[1]) if kind in KINDS else None
        if kind not in KINDS or weight is None:
            continue
        integers, steps = (each.transpose(KINDS[kind]) for each in weight)
        bias = np.zeros(len(integers))
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            own = constant(operator.inputs[2])
            bias = bias if own is None else (own[0] * own[1]).reshape(-1)
        name = graph.tensors[operator.outputs[0]].name
        name = name.decode() if isinstance(name, bytes) else str(name)
        found.append(FileLayer(name=name, integers=integers, steps=steps, bias=bias))
    return found


def _names(kind: Any) -> dict[int, str]:
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}
