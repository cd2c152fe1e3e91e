"""The targets by name. Their files are imported at the first use."""

from importlib import import_module

from quiesce.errors import ExportError, did_you_mean
from quiesce.export.targets.target import Target

_HOMES = {
    "onnx": ("onnx", "OnnxTarget"),
    "openvino": ("openvino", "OpenvinoTarget"),
    "executorch": ("executorch.target", "ExecutorchTarget"),
    "qonnx": ("qonnx.target", "QonnxTarget"),
    "hls4ml": ("hls4ml.target", "Hls4mlTarget"),
}

TARGETS = tuple(_HOMES)


def target_named(name: str) -> Target:
    """Return a target.

    Raises:
        ExportError: There is no such target; the message names the nearest one.
    """
    if name not in _HOMES:
        hint = did_you_mean(name, TARGETS) or f"targets: {', '.join(TARGETS)}"
        raise ExportError(f"unknown target {name!r}; {hint}")
    module, cls = _HOMES[name]
    return getattr(import_module(f"quiesce.export.targets.{module}"), cls)()
