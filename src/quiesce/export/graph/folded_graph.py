"""Traces a prepared network and folds everything that can be folded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import check_all_called, read_inputs, read_integers
from quiesce.export.graph.batchnorm_folding import fold_batchnorms
from quiesce.export.graph.pixel_normalization import Normalization
from quiesce.export.graph.quantized_inputs import QuantizedInput, absorb_activations, find_inputs
from quiesce.export.graph.tracing import WEIGHT, layer_of, markers, trace
from quiesce.export.graph.weight_sites import Site, find_sites, parameter_name
from quiesce.export.interface import IMAGES, Example
from quiesce.export.metadata import Preprocessing
from quiesce.inference import Arguments

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A traced network with folded batch norms and activations; its quantizers are still nodes."""

    traced: "ir.Model"
    sites: list[Site]
    inputs: "dict[ir.Node, QuantizedInput]"
    outputs: list[str]
    """Names of the outputs; lowering a layer may change them in the graph."""
    reads: Mapping[str, int]
    """How often the network reads each parameter, before folding."""


def fold(
    model: nn.Module,
    example: Example,
    opset: int,
    preprocessing: Preprocessing | None = None,
    dynamic: Mapping[int, str] | None = None,
) -> Folded:
    """Trace a prepared model and fold all foldable operators, without changing a code."""
    layers = read_integers(model)
    before = None
    if preprocessing is not None and preprocessing.folded:
        before = Normalization(preprocessing.mean, preprocessing.std)
        example = _of_pixels(example)
    traced = trace(model, example, opset, before, dynamic)
    graph = traced.graph
    outputs = [output.name for output in graph.outputs]
    check_all_called(layers, {layer_of(node) for node in markers(graph, WEIGHT)})
    names = (parameter_name(value) for node in graph for value in node.inputs)
    reads = Counter(name for name in names if name is not None)
    sites = find_sites(graph, layers)
    fold_batchnorms(sites)
    inputs = find_inputs(graph, read_inputs(model))
    absorb_activations(inputs)
    return Folded(traced=traced, sites=sites, inputs=inputs, outputs=outputs, reads=reads)


def _of_pixels(example: Example) -> Example:
    if list(example.tensors) != [IMAGES]:
        raise ExportError(
            f"only a network with one floating input can take raw pixels, this one takes "
            f"{', '.join(example.tensors)}; export it without folded preprocessing"
        )
    pixels = torch.zeros(example.tensors[IMAGES].shape, dtype=torch.uint8)
    return Example(Arguments((pixels,), {}), [IMAGES], {IMAGES})
