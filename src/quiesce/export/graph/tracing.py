"""Traces a prepared model to an ONNX graph in which every quantizer is one node.

torch.export and torch.onnx translate the whole network. Only quantizers stay, as the nodes
QuantizeInput and QuantizeWeight of the domain `quiesce`, with the name of their layer or of the
operand of an addition. The passes of this package fold and lower around them.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import input_places
from quiesce.export.graph.edits import onnx_ir
from quiesce.export.interface import Example, OfTensors, open_dimensions
from quiesce.extras import require
from quiesce.quantization.quantized_layers import QuantizedLayer

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "quiesce"
INPUT, WEIGHT = "QuantizeInput", "QuantizeWeight"
LAYER = "layer"  # attribute: name of the layer
CALL = "call"  # attribute: number of the call, so that equal nodes are not joined
OWN = "float/"  # prefix of the network's own tensors
WRAPPED = "network."  # prefix of the network's tensors in OfTensors
LONGEST = 300  # characters of a reason: torch prints whole graphs

log = logging.getLogger(__name__)


class Marker(nn.Module):
    """Replaces a quantizer and leaves a node of the domain `quiesce` in the graph."""

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


def trace(
    model: nn.Module,
    example: Example,
    opset: int,
    before: nn.Module | None = None,
    dynamic: Mapping[int, str] | None = None,
) -> Any:
    """Return the graph of a prepared model in inference mode, with dynamic batch size.

    Args:
        before: A module that processes the only input before the model, such as a normalization.
        dynamic: Further dynamic dimensions, see `open_dimensions`.

    Returns:
        An onnx_ir.Model.

    Raises:
        ExportError: torch.export or torch.onnx cannot express the model.
        MissingExtraError: onnxscript is not installed.
    """
    marked = marked_copy(model)
    if before is not None:
        marked = nn.Sequential(before, marked)
    return translate(marked.eval(), example, opset, type(model).__name__, dynamic)


def translate(
    network: nn.Module,
    example: Example,
    opset: int,
    name: str,
    dynamic: Mapping[int, str] | None = None,
) -> Any:
    """Return any network as an onnx_ir.Model, with dynamic batch size.

    Inputs and outputs have the names from `Example` and `output_tensors`.

    Args:
        network: A network on the CPU, in inference mode.
        dynamic: Further dynamic dimensions, see `open_dimensions`.

    Raises:
        ExportError: torch.export or torch.onnx cannot express it.
        MissingExtraError: onnxscript is not installed.
    """
    require("onnxscript", "export to ONNX", "onnx")
    example = traceable(example)
    outputs: list[str] = []

    def note(names: Iterable[str]) -> None:
        outputs[:] = names

    function = OfTensors(network, example, note).eval()
    try:
        with quiet():
            program = torch.onnx.export(
                function,
                tuple(example.tensors.values()),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=(open_dimensions(example, dynamic or {}),),
                input_names=list(example.tensors),
                verbose=False,
            )
    except Exception as error:  # torch.export and torch.onnx raise many kinds
        raise not_expressible(name, error) from None
    if program is None or program.exported_program is None:
        raise ExportError(f"{name} cannot be exported: torch.onnx returned nothing")
    _name_outputs(program.model.graph, outputs)
    _set_apart(program.model.graph)
    return program.model


def traceable(example: Example) -> Example:
    """Return two entries on the CPU: torch.export would make a batch of one a constant."""
    example = example.rows(0, 2).to(torch.device("cpu"))
    if example.size > 1:
        return example
    return example.changed(lambda name, t: torch.cat([t, t]) if name in example.batched else t)


def not_expressible(name: str, error: Exception) -> ExportError:
    """Return the error for a network called `name` that torch.export or torch.onnx refuses.

    The original message may hold the whole graph; it is logged at level debug.
    """
    log.debug("%s cannot be exported", name, exc_info=error)
    return ExportError(
        f"{name} cannot be exported: {reason(error)}. Export the part of it that torch.export "
        "takes, such as its backbone; the log at level debug has the whole text"
    )


def _name_outputs(graph: "ir.Graph", names: Sequence[str]) -> None:
    """Name the outputs of a graph; copy one that is an input, a weight, or another output."""
    named = set()
    for place, name in enumerate(names):
        value = graph.outputs[place]
        if value in named or value.is_graph_input() or value.is_initializer():
            copied = onnx_ir().node("Identity", [value])
            copied.outputs[0].type, copied.outputs[0].shape = value.type, value.shape
            graph.append(copied)
            graph.outputs[place] = value = copied.outputs[0]
        value.name = name
        named.add(value)


def _set_apart(graph: "ir.Graph") -> None:
    """Rename the network's own tensors to avoid conflicts with lowering, inputs and outputs."""
    for value in list(graph.initializers.values()):
        value.name = OWN + (value.name or "").removeprefix(WRAPPED)
    ends = {value.name for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        for value in node.outputs:
            if value.name in ends and not value.is_graph_output():
                value.name = f"{OWN}{value.name}"


def markers(graph: "ir.Graph", kind: str) -> "list[ir.Node]":
    """Return the nodes of the domain `quiesce` of one kind, in the order of the graph."""
    return [node for node in graph if node.domain == DOMAIN and node.op_type == kind]


def layer_of(node: "ir.Node") -> str:
    """Return the name of the layer of a marker."""
    return node.attributes[LAYER].as_string()


def marked_copy(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU with a `Marker` instead of every quantizer."""
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
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress and the warnings of the exporter."""
    levels: Mapping[str, int] = {
        name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")
    }
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # torch prints its graph
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
