"""The target onnx: the file of `export_onnx`, in ONNX Runtime."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from quiesce.export.onnx import build_model
from quiesce.export.packing import check_pack
from quiesce.export.runtime import session
from quiesce.export.targets.target import File, Network, Package, Refusal, Run, Target
from quiesce.export.verification.comparison import Candidate
from quiesce.export.verification.result import MAX_SHARE
from quiesce.export.verification.verify import ONNX_RUNTIME, onnx_candidate

ONNX_PACKAGES = (
    Package(name="onnx", tested="1"),
    Package(name="onnxscript", tested="0"),
    Package(name="onnxruntime", tested="1"),
)


class OnnxFile(File):
    """An onnx.ModelProto of `build_model`."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto

    def candidate(self, model: nn.Module, where: str | Path, allowed: float) -> Candidate:
        """See `File`."""
        ways = {
            name: partial(session, optimized=optimized, where=where)
            for name, optimized in (("plain", False), ("optimized", True))
        }
        return onnx_candidate(
            model, self.proto, where=where, runtime=ONNX_RUNTIME, ways=ways, allowed=allowed
        )

    def write(self, path: Path) -> None:
        """See `File`."""
        path.write_bytes(self.proto.SerializeToString())


class OnnxTarget(Target):
    """ONNX with integer weights (QDQ)."""

    name = "onnx"
    what = "ONNX file with QuantizeLinear and DequantizeLinear"
    takes = "W2A2 to W8A8, learned offsets, any operator of ONNX"
    suffix = ".onnx"
    packages = ONNX_PACKAGES
    install = "pip install 'quiesce[onnx]'"
    allows = MAX_SHARE
    options = frozenset({"pack", "opset", "labels", "summary", "preprocessing", "dynamic"})

    def check(self, network: Network) -> list[Refusal]:
        """See `Target`; it takes every network that can be traced."""
        return []

    def build(self, network: Network, **options: Any) -> OnnxFile:
        """See `Target`."""
        pack = options.pop("pack", "int8")
        opset = check_pack(pack, options.pop("opset", None))
        proto, _ = build_model(
            network.model,
            network.example,
            pack=pack,
            opset=opset,
            rounded_biases=network.rounded_biases,
            **options,
        )
        return OnnxFile(proto)

    def load(self, path: Path) -> Run:
        """See `Target`."""
        return run_of(session(path.read_bytes(), optimized=True, where=path))


def run_of(opened: Any) -> Run:
    """Return the function of a session with the methods of ONNX Runtime."""
    names = [output.name for output in opened.get_outputs()]
    return lambda feed: dict(zip(names, opened.run(names, dict(feed)), strict=True))
