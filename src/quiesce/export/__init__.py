"""Exports a trained network to a file of integers, and verifies that the outputs agree.

The functions need the extra "onnx". Names are imported at their first use, so that `quiesce
predict` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quiesce.export.arrays import export_arrays as export_arrays
    from quiesce.export.onnx import Export as Export
    from quiesce.export.onnx import export_onnx as export_onnx
    from quiesce.export.program import Program as Program
    from quiesce.export.program import export_program as export_program
    from quiesce.export.verification.result import LayerCheck as LayerCheck
    from quiesce.export.verification.result import Verification as Verification
    from quiesce.export.verification.verify import verify_onnx as verify_onnx

_HOMES = {
    "Export": "onnx",
    "LayerCheck": "verification.result",
    "Program": "program",
    "Verification": "verification.result",
    "export_arrays": "arrays",
    "export_onnx": "onnx",
    "export_program": "program",
    "verify_onnx": "verification.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quiesce.export' has no attribute {name!r}")
    return getattr(import_module(f"quiesce.export.{_HOMES[name]}"), name)
