"""The target qonnx."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from quiesce.export.biases.layer_integers import read_inputs, read_integers
from quiesce.export.checks import left_float
from quiesce.export.targets.onnx import ONNX_PACKAGES
from quiesce.export.targets.qonnx.quant_nodes import Written, write_quant_nodes
from quiesce.export.targets.qonnx.runner import QonnxRunner, executed, with_batch
from quiesce.export.targets.target import File, Network, Package, Refusal, Run, Target
from quiesce.export.verification.comparison import Candidate
from quiesce.export.verification.file_contents import unit_of
from quiesce.files.untrusted.onnx_graphs import read_onnx

QONNX_PACKAGES = (*ONNX_PACKAGES, Package(name="qonnx", tested="1.0"))


class QonnxFile(File):
    """A graph with Quant nodes."""

    def __init__(self, written: Written, *, rounded_biases: bool) -> None:
        self._written = written
        self._rounded = rounded_biases

    def candidate(self, model: nn.Module, where: str | Path, allowed: float) -> Candidate:
        """See `File`."""
        runner = QonnxRunner(self._written)
        layers = read_integers(model)
        wrong = []
        for name, codes in runner.weight_codes().items():
            trained = layers[self._written.weights[name]].codes
            if count := int(np.count_nonzero(codes != trained)):
                wrong.append(f"{name}: {count} weight codes are not the trained ones")
        last = self._written.weights.get(self._written.last)
        return Candidate(
            where=where,
            runtime="qonnx",
            runner=runner,
            grids=read_inputs(model),
            made_by=self._written.made_by,
            last=self._written.last,
            unit=1.0 if last is None else unit_of(layers[last]),
            wrong_weights=wrong,
            left_float=left_float(model),
            rounded_biases=self._rounded,
            allowed=allowed,
        )

    def write(self, path: Path) -> None:
        """Write it for a batch of one, as FINN and hls4ml read it."""
        path.write_bytes(with_batch(self._written.proto, 1).SerializeToString())


class QonnxTarget(Target):
    """ONNX with Quant nodes."""

    name = "qonnx"
    what = "ONNX file with the Quant nodes of QONNX, as FINN and hls4ml read it"
    takes = "W2A2 to W8A8, learned offsets, any operator of ONNX"
    suffix = ".onnx"
    packages = QONNX_PACKAGES
    install = "pip install 'quiesce[qonnx]'"

    def check(self, network: Network) -> list[Refusal]:
        """See `Target`; it takes every network that can be traced."""
        return []

    def build(self, network: Network, **options: Any) -> QonnxFile:
        """See `Target`."""
        return QonnxFile(write_quant_nodes(network), rounded_biases=network.rounded_biases)

    def load(self, path: Path) -> Run:
        """See `Target`; the executor takes one input at a time."""
        return executed(read_onnx(path))
