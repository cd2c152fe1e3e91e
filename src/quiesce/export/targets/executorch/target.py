"""The target executorch."""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from quiesce.errors import ExportError, first_line
from quiesce.export.graph.tracing import quiet
from quiesce.export.targets.onnx import ONNX_PACKAGES
from quiesce.export.targets.pt2e.file import PT2EFile, one_by_one, refusals
from quiesce.export.targets.pt2e.rewriting import rewrite
from quiesce.export.targets.target import Network, Package, Refusal, Run, Target
from quiesce.extras import require

FEATURE = "writing a .pte file"


class ExecutorchTarget(Target):
    """ExecuTorch with the XNNPACK backend."""

    name = "executorch"
    what = ".pte file for ExecuTorch with XNNPACK, the processors of phones"
    takes = "W2A2 to W7A8 in integers, W8A8 partly in float; no learned offsets"
    suffix = ".pte"
    packages = (*ONNX_PACKAGES, Package(name="executorch", tested="1.5"))
    install = "pip install 'quiesce[executorch]'"
    rounds_biases = True

    def check(self, network: Network) -> list[Refusal]:
        """See `Target`."""
        return refusals(network)

    def build(self, network: Network, **options: Any) -> PT2EFile:
        """See `Target`."""
        return PT2EFile(
            rewrite(network),
            runtime="ExecuTorch",
            lower=lower,
            opened=opened,
            read=constants,
            rounded_biases=network.rounded_biases,
        )

    def load(self, path: Path) -> Run:
        """See `Target`; the file takes one input at a time, and its outputs have no names."""
        return one_by_one(opened(path.read_bytes()))


def lower(module: fx.GraphModule, example: tuple[Tensor, ...]) -> bytes:
    """Return a network as the bytes of a .pte file for XNNPACK.

    Additions stay in float: XNNPACK's integer addition rounds in fixed point, and the trained
    network rounds a float sum.

    Raises:
        ExportError: ExecuTorch refuses it.
    """
    xnnpack = "executorch.backends.xnnpack.partition"
    with quiet():  # their imports warn
        exir = require("executorch.exir", FEATURE, "executorch")
        partitioner = require(f"{xnnpack}.xnnpack_partitioner", FEATURE, "executorch")
    try:
        with quiet(), _silent(), torch.no_grad():
            program = torch.export.export(module, example)
            lowered = exir.to_edge_transform_and_lower(
                program, partitioner=[partitioner.XnnpackPartitioner(configs=_configs())]
            )
            return bytes(lowered.to_executorch().buffer)
    except Exception as error:  # ExecuTorch raises many kinds
        raise ExportError(f"ExecuTorch refuses the network ({first_line(error)})") from error


def _configs() -> list[Any]:
    """Return XNNPACK's patterns, of which additions only match in float."""
    patterns = require("executorch.backends.xnnpack.partition.config", FEATURE, "executorch")
    generic = require(f"{patterns.__name__}.generic_node_configs", FEATURE, "executorch")
    precision = require(f"{patterns.__name__}.xnnpack_config", FEATURE, "executorch")

    class FloatAddition(generic.AddConfig):
        def supported_precision_types(self) -> list[Any]:
            return [precision.ConfigPrecisionType.FP32]

    known = patterns.ALL_PARTITIONER_CONFIGS
    return [FloatAddition if each is generic.AddConfig else each for each in known]


def opened(content: bytes) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Return a function that runs a .pte file in ExecuTorch.

    Raises:
        ExportError: ExecuTorch refuses the file.
    """
    with quiet():
        runtime = require("executorch.runtime", "running a .pte file", "executorch").Runtime
    try:
        with _silent():
            program = runtime.get().load_program(content)
            method = program.load_method("forward")
    except RuntimeError as error:
        raise ExportError(f"ExecuTorch refuses the file ({first_line(error)})") from error

    def run(arrays: Sequence[np.ndarray], _keep: object = (content, program)) -> list[np.ndarray]:
        # the method reads the memory of its content and of its program
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        return [tensor.numpy().copy() for tensor in method.execute(tensors)]

    return run


def constants(content: bytes) -> list[bytes]:
    """Return the constants of a .pte file, as they are stored."""
    module = "executorch.exir._serialize._program"
    with quiet():
        program = require(module, "reading a .pte file", "executorch")
    file = program.deserialize_pte_binary(content)
    named = file.named_data
    found = [] if named is None else [bytes(each) for each in _buffers(named)]
    return found + [bytes(each.storage) for each in file.program.constant_buffer]


def _buffers(named: Any) -> list[Any]:
    return [getattr(each, "buffer", each) for each in named.buffers]


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the warnings and the log of ExecuTorch."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
