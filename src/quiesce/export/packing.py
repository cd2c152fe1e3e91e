"""Types of weight codes: int8, or several codes per byte."""

from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.runtime import session
from quiesce.extras import require

Pack = Literal["int8", "int4", "int2"]
PACKS: tuple[str, ...] = get_args(Pack)
DEFAULT_OPSET = 21
_NEEDS = {"int8": 18, "int4": 21, "int2": 25}
"""First version of the ONNX operators with this type; the exporter supports 18 and newer."""


def check_pack(pack: str, opset: int | None) -> int:
    """Return the opset to write.

    Args:
        pack: Smallest type of weight codes.
        opset: Version of the ONNX operators, or None for the oldest that works.

    Raises:
        ValueError: `pack` is unknown.
        ExportError: The opset is too old for the type, or the installed onnx or onnxruntime does
            not support it.
    """
    if pack not in PACKS:
        raise ValueError(f"`pack` must be one of {', '.join(PACKS)}, got {pack!r}")
    needed = _NEEDS[pack]
    if opset is None:
        opset = max(DEFAULT_OPSET, needed)
    if opset < needed:
        raise ExportError(f"{pack} weights need opset {needed} or newer, got {opset}")
    onnx = require("onnx", "export to ONNX", "onnx")
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ExportError(f"opset {opset} is newer than the installed onnx knows ({newest})")
    if pack != "int8" and find_spec("onnxruntime") is not None:
        where = f"{pack} weights at opset {opset}"
        session(_smallest(pack, opset), optimized=False, where=where)
    return opset


def _smallest(pack: str, opset: int) -> Any:
    """Return a model that only reads one number of the type `pack`."""
    onnx = require("onnx", "export to ONNX", "onnx")
    make = onnx.helper
    holder = onnx.TensorProto.DataType.Value(pack.upper())
    graph = make.make_graph(
        [make.make_node("DequantizeLinear", ["codes", "scale"], ["weight"])],
        "smallest",
        [],
        [make.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [1])],
        [
            make.make_tensor("codes", holder, [1], [1]),
            make.make_tensor("scale", onnx.TensorProto.FLOAT, [], [1.0]),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", opset)])
    model.ir_version = make.find_min_ir_version_for(model.opset_import)
    return model


def container(bits: int, pack: Pack) -> np.dtype:
    """Return the smallest type that `pack` allows for signed codes of `bits`."""
    if pack == "int8" or bits > 4:
        return np.dtype(np.int8)
    types = require("ml_dtypes", "export to ONNX", "onnx")
    return np.dtype(types.int2 if pack == "int2" and bits <= 2 else types.int4)
