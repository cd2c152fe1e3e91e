"""Exports a trained network to a file of integers, and verifies that the outputs agree.

The package is also the function `quiesce.export(model, path, target=..., example_input=...)`, see
`quiesce.export.targets.exporting.export`. The functions need the extra "onnx". Names are imported
at their first use, so that `quiesce predict` does not import torch.
"""

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quiesce.export.arrays import export_arrays as export_arrays
    from quiesce.export.onnx import Export as Export
    from quiesce.export.onnx import export_onnx as export_onnx
    from quiesce.export.program import Program as Program
    from quiesce.export.program import export_program as export_program
    from quiesce.export.targets.exporting import TargetExport as TargetExport
    from quiesce.export.verification.result import LayerCheck as LayerCheck
    from quiesce.export.verification.result import Verification as Verification
    from quiesce.export.verification.verify import verify_onnx as verify_onnx

_HOMES = {
    "Export": "onnx",
    "LayerCheck": "verification.result",
    "Program": "program",
    "TargetExport": "targets.exporting",
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


class _CallablePackage(ModuleType):
    """A package that is called like its function `export`."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(import_module("quiesce.export.targets.exporting").export)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("quiesce.export.targets.exporting").export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
