"""The target hls4ml."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from quiesce.export.biases.layer_integers import read_inputs, read_integers
from quiesce.export.checks import left_float
from quiesce.export.targets.hls4ml.design import arranged, write_design
from quiesce.export.targets.hls4ml.emulation import HlsRunner, channels_first
from quiesce.export.targets.hls4ml.network_in_codes import InCodes, read_network
from quiesce.export.targets.hls4ml.numbers import Numbers
from quiesce.export.targets.hls4ml.project import Project, opened
from quiesce.export.targets.hls4ml.report import REPORT, TABLE, read_report, report_of, table_of
from quiesce.export.targets.onnx import ONNX_PACKAGES
from quiesce.export.targets.target import File, Network, Package, Refusal, Run, Target
from quiesce.export.verification.comparison import Candidate
from quiesce.export.verification.file_contents import unit_of


class HlsProject(File):
    """A network as an hls4ml project."""

    def __init__(self, network: InCodes, io_type: str, *, rounded_biases: bool) -> None:
        self._network = network
        self._numbers = Numbers(network)
        self._design = write_design(network, self._numbers)
        self._make = partial(Project, io_type=io_type)
        self._project = self._make(self._design)
        self._rounded = rounded_biases

    def candidate(self, model: nn.Module, where: str | Path, allowed: float) -> Candidate:
        """See `File`."""
        layers = read_integers(model)
        last = self._network.layers.get(self._network.last)
        return Candidate(
            where=where,
            runtime="hls4ml's emulation",
            runner=HlsRunner(self._network, self._numbers, self._design, self._project, self._make),
            grids=read_inputs(model),
            made_by=self._network.made_by,
            last=self._network.last,
            unit=1.0 if last is None else unit_of(layers[last.site.layer.name]),
            wrong_weights=self._wrong_weights(model),
            left_float=left_float(model),
            rounded_biases=self._rounded,
            allowed=allowed,
        )

    def write(self, path: Path) -> None:
        """Write the folder, with the report of all bits, without compiled code."""
        self._project.copy(path)
        report = report_of(self._network, self._design)
        (path / REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        (path / TABLE).write_text(table_of(self._design), "utf-8")

    def notes(self) -> list[str]:
        """Say how many bits the accumulators have."""
        bits = [each.bits for each in self._design.accumulators]
        return [f"bits of accumulators: {min(bits)} to {max(bits)}, all of them in {TABLE}"]

    def _wrong_weights(self, model: nn.Module) -> list[str]:
        trained = read_integers(model)
        wrong = []
        for name, layer in self._network.layers.items():
            stored = self._project.stored_weight(self._design.weights[name])
            codes = trained[layer.site.layer.name].codes
            expected = arranged(layer, codes, self._network.values[layer.source.name].shape)
            if stored.size != expected.size:
                wrong.append(f"{name}: the project has no weight of its size")
            elif count := int(np.count_nonzero(stored != expected.ravel())):
                wrong.append(f"{name}: {count} weight codes are not the trained ones")
        return wrong


class Hls4mlTarget(Target):
    """hls4ml: C++ for the synthesis of FPGA designs."""

    name = "hls4ml"
    what = "folder of C++ for FPGAs (hls4ml, Vitis HLS), with proven widths"
    takes = (
        "W2A2 to W8A8 of convolutions, linear layers and quantized additions; no learned offsets"
    )
    suffix = ""
    packages = (*ONNX_PACKAGES, Package(name="hls4ml", tested="1.3"))
    install = "pip install 'quiesce[hls4ml]'"
    options = frozenset({"io_type"})

    def check(self, network: Network) -> list[Refusal]:
        """See `Target`."""
        return read_network(network).refusals

    def build(self, network: Network, **options: Any) -> HlsProject:
        """See `Target`.

        Args:
            network: The network.
            options: `io_type`, "io_stream" (the default) or "io_parallel": how hls4ml passes
                values between layers. io_parallel takes minutes to compile for images.
        """
        io_type = options.get("io_type", "io_stream")
        if io_type not in ("io_stream", "io_parallel"):
            raise ValueError(f"`io_type` must be 'io_stream' or 'io_parallel', got {io_type!r}")
        return HlsProject(read_network(network), io_type, rounded_biases=network.rounded_biases)

    def load(self, path: Path) -> Run:
        """See `Target`; compiles a copy of the project."""
        report = read_report(path)
        project = opened(path)

        def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            (values,) = feed.values()
            found = project([each.codes_of(values) for each in report.inputs])
            return {report.output: channels_first(found[0], report.shape)}

        return run
