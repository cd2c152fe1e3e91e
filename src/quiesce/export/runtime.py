"""Runs exported models in ONNX Runtime: whole, or cut at their codes, to feed each layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError, first_line
from quiesce.export.metadata import Description
from quiesce.extras import require

FED = ".fed"
CODES = ".input_codes"
"""Suffix of a layer name that gives the name of its input codes."""


def session(
    model: Any, *, optimized: bool, where: str | Path = "the model", threads: int = 0
) -> Any:
    """Return an onnxruntime.InferenceSession on the CPU.

    Args:
        optimized: Whether all graph optimizations are on, as by default, or none.
        threads: Threads inside an operator; 0 lets ONNX Runtime choose.

    Raises:
        ExportError: ONNX Runtime refuses the model.
        MissingExtraError: onnxruntime is not installed.
    """
    ort = require("onnxruntime", "running an ONNX file", "onnx")
    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    options.log_severity_level = 4  # errors are raised anyway
    options.intra_op_num_threads = threads
    # float products with weights in groups; by default the other operand is rounded to 8 bits
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    content = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one private class for each status
        raise ExportError(f"{where}: ONNX Runtime refuses it ({first_line(error)})") from error


def quantized_inputs(description: Description) -> list[str]:
    """Return the names of the tensors of codes, in the order of the file."""
    return [each.name for each in description.inputs]


def with_codes(model: Any, names: list[str]) -> Any:
    """Return a copy of a model whose codes are also outputs, in the order of `names`."""
    onnx = require("onnx", "verifying an ONNX file", "onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kinds = _code_types(copy)
    for name in names:
        copy.graph.output.append(_value(onnx, name + CODES, kinds[name + CODES], None))
    return copy


def cut_at_codes(model: Any, codes: Mapping[str, np.ndarray]) -> Any:
    """Return a copy of a model in which every layer and addition reads its codes from inputs.

    The codes are still computed, as outputs; their readers use the inputs "<name>.fed" instead.

    Args:
        codes: Codes by name; the inputs have their shapes, except for the batch.
    """
    onnx = require("onnx", "verifying an ONNX file", "onnx")
    cut = with_codes(model, list(codes))
    kinds = _code_types(cut)
    fed = {name + CODES: name + FED for name in codes}
    for node in cut.graph.node:
        for place, value in enumerate(node.input):
            if value in fed:
                node.input[place] = fed[value]
    for name, array in codes.items():
        shape = ["batch", *array.shape[1:]]
        cut.graph.input.append(_value(onnx, name + FED, kinds[name + CODES], shape))
    return cut


def _value(onnx: Any, name: str, kind: int, shape: list[Any] | None) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def _code_types(model: Any) -> dict[str, int]:
    """Return the element type of each tensor of codes, which is that of its zero point."""
    types = {each.name: each.data_type for each in model.graph.initializer}
    kinds: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            kinds[node.output[0]] = types[node.input[2]]
        elif node.op_type == "Clip" and node.input[0] in kinds:
            kinds[node.output[0]] = kinds[node.input[0]]
    return kinds
