"""Traces a prepared model to an ONNX graph in which every quantizer is one node.

torch.export and torch.onnx translate the whole network. Only quantizers stay, as the nodes
QuantizeInput and QuantizeWeight of the domain `quiesce`, with the name of their layer or of the
operand of an addition. The passes of this package fold and lower around them.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import input_places
from quiesce.extras import require
from quiesce.quantization.quantized_layers import QuantizedLayer

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "quiesce"
INPUT, WEIGHT = "QuantizeInput", "QuantizeWeight"
LAYER = "layer"  # attribute: name of the layer
CALL = "call"  # attribute: number of the call, so that equal nodes are not joined
OWN = "float/"  # prefix of the network's own tensors
BATCH = "batch"  # the dynamic dimension


class Marker(nn.Module):
    """Replaces a quantizer and leaves a node of the domain `quiesce` in the graph.

    Args:
        kind: INPUT or WEIGHT.
        layer: Name of the layer.
    """

    def __init__(self, kind: str, layer: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = layer
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` through one node."""
        self.calls += 1
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.kind}",
            (x,),
            attrs={LAYER: self.layer, CALL: self.calls},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )


def trace(model: nn.Module, images: Tensor, opset: int, before: nn.Module | None = None) -> Any:
    """Return the graph of a prepared model in inference mode, with dynamic batch size.

    Args:
        model: The prepared model; it does not change.
        images: An example input, (batch, ...), on any device.
        opset: Version of the ONNX operators.
        before: A module that processes the input before the model, such as a normalization.

    Returns:
        An onnx_ir.Model with the input "images" and the output "logits".

    Raises:
        ExportError: torch.export or torch.onnx can not express the model.
        MissingExtraError: onnxscript is not installed.
    """
    marked = _marked(model)
    if before is not None:
        marked = nn.Sequential(before, marked)
    return translate(marked.eval(), images, opset, type(model).__name__)


def translate(network: nn.Module, images: Tensor, opset: int, name: str) -> Any:
    """Return any network as an onnx_ir.Model, with dynamic batch size.

    Args:
        network: A network on the CPU, in inference mode.
        images: An example input, (batch, ...).
        opset: Version of the ONNX operators.
        name: Name of the network in error messages.

    Raises:
        TypeError: `images` is not a tensor.
        ExportError: torch.export or torch.onnx can not express it.
        MissingExtraError: onnxscript is not installed.
    """
    require("onnxscript", "export to ONNX", "onnx")
    if not isinstance(images, Tensor):
        raise TypeError(f"`example_input` must be one tensor, got {type(images).__name__}")
    images = images.detach().cpu()
    if len(images) == 1:  # a batch size of 1 would become a constant
        images = torch.cat([images, images])
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    except Exception as error:  # torch.export and torch.onnx raise many kinds
        raise ExportError(f"{name} can not be exported: {reason(error)}") from error
    if program is None or program.exported_program is None:
        raise ExportError(f"{name} can not be exported: torch.onnx returned nothing")
    returned = program.exported_program.call_spec.out_spec
    if returned is None or not returned.is_leaf():
        raise not_one_tensor(name)
    _set_apart(program.model.graph)
    return program.model


def not_one_tensor(name: str) -> ExportError:
    """Return the error for a network that returns a tuple, a list or a dict."""
    return ExportError(f"{name} must return one tensor to be exported, not a collection")


def _set_apart(graph: "ir.Graph") -> None:
    """Rename the network's own tensors, because lowering gives names like "conv.weight_scale"."""
    for value in list(graph.initializers.values()):
        value.name = OWN + (value.name or "")


def markers(graph: "ir.Graph", kind: str) -> "list[ir.Node]":
    """Return the nodes of the domain `quiesce` of one kind, in the order of the graph."""
    return [node for node in graph if node.domain == DOMAIN and node.op_type == kind]


def layer_of(node: "ir.Node") -> str:
    """Return the name of the layer of a marker."""
    return node.attributes[LAYER].as_string()


def _marked(model: nn.Module) -> nn.Module:
    marked = copy.deepcopy(model).cpu()
    for place in input_places(marked):
        place.owner.add_module(place.attribute, Marker(INPUT, place.name))
    for name, module in list(marked.named_modules()):
        if isinstance(module, QuantizedLayer):
            module.add_module("weight_quantizer", Marker(WEIGHT, name))
    return marked


def reason(error: BaseException) -> str:
    """Return the innermost cause of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress and the warnings of the exporter."""
    levels: Mapping[str, int] = {
        name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")
    }
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
