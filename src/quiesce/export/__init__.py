"""From a trained network to a file of integers that is proven to compute the same.

Importing this package imports torch; what it does needs the extra "onnx".
"""

from quiesce.export.arrays import export_arrays as export_arrays
from quiesce.export.onnx import Export as Export
from quiesce.export.onnx import export_onnx as export_onnx
from quiesce.export.program import export_program as export_program
from quiesce.export.verification import LayerCheck as LayerCheck
from quiesce.export.verification import Verification as Verification
from quiesce.export.verify import verify_onnx as verify_onnx

__all__ = [
    "Export",
    "LayerCheck",
    "Verification",
    "export_arrays",
    "export_onnx",
    "export_program",
    "verify_onnx",
]
