"""Traces a prepared network and folds everything that can be folded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quiesce.export.biases.layer_integers import check_all_called, read_inputs, read_integers
from quiesce.export.checks import check_example
from quiesce.export.graph.batchnorm_folding import fold_batchnorms
from quiesce.export.graph.pixel_normalization import Normalization
from quiesce.export.graph.quantized_inputs import QuantizedInput, absorb_activations, find_inputs
from quiesce.export.graph.tracing import WEIGHT, layer_of, markers, trace
from quiesce.export.graph.weight_sites import Site, find_sites, parameter_name
from quiesce.export.metadata import Preprocessing

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A traced network with folded batch norms and activations; its quantizers are still nodes."""

    traced: "ir.Model"
    sites: list[Site]
    inputs: "dict[ir.Node, QuantizedInput]"
    reads: Mapping[str, int]
    """How often the network reads each parameter, before folding."""


def fold(
    model: nn.Module, example_input: Tensor, opset: int, preprocessing: Preprocessing | None = None
) -> Folded:
    """Trace a prepared model and fold what can be folded, without changing a code.

    Raises:
        NotCalibratedError, NothingToDoError, ExportError: See `export_onnx`.
    """
    check_example(example_input)
    layers = read_integers(model)
    before = None
    if preprocessing is not None and preprocessing.folded:
        before = Normalization(preprocessing.mean, preprocessing.std)
        example_input = torch.zeros(example_input.shape, dtype=torch.uint8)
    traced = trace(model, example_input, opset, before)
    graph = traced.graph
    check_all_called(layers, {layer_of(node) for node in markers(graph, WEIGHT)})
    names = (parameter_name(value) for node in graph for value in node.inputs)
    reads = Counter(name for name in names if name is not None)
    sites = find_sites(graph, layers)
    fold_batchnorms(sites)
    inputs = find_inputs(graph, read_inputs(model))
    absorb_activations(inputs)
    return Folded(traced=traced, sites=sites, inputs=inputs, reads=reads)
