"""The target openvino: the file of `export_onnx`, read by OpenVINO."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from quiesce.errors import ExportError, first_line
from quiesce.export.metadata import load_model
from quiesce.export.targets.onnx import ONNX_PACKAGES, OnnxFile, OnnxTarget, run_of
from quiesce.export.targets.target import Network, Package, Run
from quiesce.export.verification.comparison import Candidate
from quiesce.export.verification.verify import onnx_candidate
from quiesce.extras import require

SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "LP_TRANSFORMS_MODE": "NO",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
"""What the plugin of the CPU needs to compute what was trained. By default, a processor with
bfloat16 or AMX computes in bfloat16; low-precision transformations fuse an addition of codes into
the convolution before it, whose codes they then do not clip; and the input of a linear layer with
8-bit weights is rounded to 8 bits in groups."""


class OpenvinoFile(OnnxFile):
    """An onnx.ModelProto that runs in OpenVINO."""

    def candidate(self, model: nn.Module, where: str | Path, allowed: float) -> Candidate:
        """See `File`."""
        ways = {"openvino": partial(Session, where=where)}
        return onnx_candidate(
            model,
            self.proto,
            where=where,
            runtime="OpenVINO",
            ways=ways,
            allowed=allowed,
            excuses=True,
        )


class OpenvinoTarget(OnnxTarget):
    """ONNX with integer weights, verified in OpenVINO."""

    name = "openvino"
    what = "ONNX file with QuantizeLinear and DequantizeLinear, run by OpenVINO"
    takes = "W2A2 to W8A8, learned offsets, the operators of OpenVINO"
    packages = (*ONNX_PACKAGES, Package(name="openvino", tested="2026.4"))
    install = "pip install 'quiesce[openvino]'"
    allows = 0.0

    def build(self, network: Network, **options: Any) -> OpenvinoFile:
        """See `Target`."""
        return OpenvinoFile(super().build(network, **options).proto)

    def load(self, path: Path) -> Run:
        """See `Target`."""
        return run_of(Session(load_model(path), path))


class _Value(NamedTuple):
    name: str
    shape: list[Any]


class Session:
    """An onnx.ModelProto in OpenVINO on the CPU, in float32, with the methods of ONNX Runtime.

    Raises:
        ExportError: OpenVINO does not read the model.
    """

    def __init__(self, proto: Any, where: str | Path) -> None:
        openvino = require("openvino", "running a file in OpenVINO", "openvino")
        core = openvino.Core()
        try:
            made = core.read_model(proto.SerializeToString(), b"")
            self._compiled = core.compile_model(made, "CPU", SETTINGS)
        except RuntimeError as error:
            raise ExportError(f"{where}: OpenVINO refuses it ({first_line(error)})") from error
        self._names = [output.name for output in proto.graph.output]

    def get_inputs(self) -> list[_Value]:
        """Return names and shapes of the inputs; None is a dynamic dimension."""
        return [
            _Value(
                port.get_any_name(),
                [dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()],
            )
            for port in self._compiled.inputs
        ]

    def get_outputs(self) -> list[_Value]:
        """Return the names of the outputs."""
        return [_Value(name, []) for name in self._names]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return outputs by name."""
        takes = {each.name for each in self.get_inputs()}
        given = self._compiled({name: array for name, array in feed.items() if name in takes})
        return [given[self._names.index(name)] for name in names]
