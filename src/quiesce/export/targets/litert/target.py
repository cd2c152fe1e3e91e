"""The target litert."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

FEATURE = "writing a .tflite file"


class LitertTarget(Target):
    """LiteRT with the XNNPACK delegate."""

    name = "litert"
    what = ".tflite file for LiteRT with XNNPACK, the processors of phones"
    takes = "W2A8 to W7A8 in integers, W8A8 partly in float; no learned offsets"
    suffix = ".tflite"
    packages = (
        *ONNX_PACKAGES,
        Package(name="litert-torch", tested="0.10"),
        Package(name="ai-edge-litert", tested="2.3"),
    )
    install = "pip install 'quiesce[litert]'"
    rounds_biases = True

    def check(self, network: Network) -> list[Refusal]:
        """See `Target`."""
        return refusals(network)

    def build(self, network: Network, **options: Any) -> PT2EFile:
        """See `Target`."""
        return PT2EFile(
            rewrite(network, constants="float"),
            runtime="LiteRT",
            lower=lower,
            opened=opened,
            read=constants,
            rounded_biases=network.rounded_biases,
        )

    def load(self, path: Path) -> Run:
        """See `Target`; the file takes one input at a time, and its outputs have no names."""
        return one_by_one(opened(path.read_bytes()))


def lower(module: fx.GraphModule, example: tuple[Tensor, ...]) -> bytes:
    """Return a network as the bytes of a .tflite file.

    The converter gets weights as float constants behind quantize_per_channel: it takes int8
    constants for float ones (github.com/google-ai-edge/litert-torch, issues 588 and 752).

    Raises:
        ExportError: litert-torch refuses it.
    """
    with quiet():  # their imports warn
        converter = require("litert_torch", FEATURE, "litert")
        quantizer = require("litert_torch.quantize.pt2e_quantizer", FEATURE, "litert")
        config = require("litert_torch.quantize.quant_config", FEATURE, "litert")
    how = quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    quantized = config.QuantConfig(pt2e_quantizer=quantizer.PT2EQuantizer().set_global(how))
    try:
        with quiet(), _silent(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            made = converter.convert(module, example, quant_config=quantized)
            made.export(str(Path(folder) / "made.tflite"))
            return (Path(folder) / "made.tflite").read_bytes()
    except Exception as error:  # litert-torch raises many kinds
        raise ExportError(f"LiteRT refuses the network ({first_line(error)})") from error


def opened(content: bytes) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Return a function that runs a .tflite file in LiteRT with XNNPACK.

    Raises:
        ExportError: LiteRT refuses the file.
    """
    with quiet():
        interpreter = require("ai_edge_litert.interpreter", "running a .tflite file", "litert")
    try:
        model = interpreter.Interpreter(model_content=content, num_threads=1)
        model.allocate_tensors()
        run = model.get_signature_runner()
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT refuses the file ({first_line(error)})") from error
    takes = sorted(run.get_input_details().items(), key=_number)
    gives = sorted(run.get_output_details().items(), key=_number)

    def call(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = {name: _stored(at, x) for (name, at), x in zip(takes, arrays, strict=True)}
        found = run(**given)
        return [_values(at, found[name]) for name, at in gives]

    return call


def _stored(tensor: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    """Return values as an input takes them; the converter makes an input of codes int8."""
    if tensor["dtype"] != np.int8:
        return np.ascontiguousarray(values)
    scale, zero = tensor["quantization"]
    return (np.round(values / np.float32(scale)) + zero).astype(np.int8)


def _values(tensor: Mapping[str, Any], stored: np.ndarray) -> np.ndarray:
    """Return the values of an output."""
    if tensor["dtype"] != np.int8:
        return stored.copy()
    scale, zero = tensor["quantization"]
    return (stored.astype(np.float32) - zero) * np.float32(scale)


def _number(item: tuple[str, Any]) -> int:
    """Return the place of an argument or output from its name: "args_3"."""
    return int(item[0].rpartition("_")[2])


def constants(content: bytes) -> list[bytes]:
    """Return the constants of a .tflite file, as they are stored."""
    with quiet():
        schema = require("ai_edge_litert.schema_py_generated", "reading a .tflite file", "litert")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return [bytes(each.data) for each in model.buffers if each.data is not None]


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the log of litert-torch."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
