"""Variants of a rewritten network for its verification: with its codes, and cut at its codes."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.graph import CodeGen

from quiesce.export.targets.pt2e.rewriting import Rewritten


def with_codes(made: Rewritten) -> fx.GraphModule:
    """Return a copy that also returns its codes, in their order: int8, or values for "float"."""
    module, codes = _copied(made)
    _return_too(made, module.graph, codes)
    return _ready(module)


def cut_at_codes(made: Rewritten) -> fx.GraphModule:
    """Return a copy in which every reader of codes reads an argument instead.

    Its arguments are those of the network, and codes in their order, as `with_codes` returns them.
    It returns what `with_codes` returns.
    """
    module, computed = _copied(made)
    graph = module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for number, node in enumerate(computed):
        with graph.inserting_after(last):
            last = fed = graph.placeholder(f"fed_{number}")
        if made.constants == "float":
            with graph.inserting_after(fed):
                fed = graph.call_function(node.target, (fed, *node.args[1:]))  # pyright: ignore[reportArgumentType]
        readers = [user for user in node.users if user is not fed]
        for reader in readers:
            reader.replace_input_with(node, fed)
    _return_too(made, graph, computed)
    return _ready(module)


def fed_example(made: Rewritten, codes: Mapping[str, np.ndarray]) -> tuple[Tensor, ...]:
    """Return arguments of `cut_at_codes` for the first entry of a batch."""
    fed = (torch.from_numpy(made.stored(name, codes[name][:1])) for name in made.codes)
    return (*made.example, *fed)


def _copied(made: Rewritten) -> tuple[fx.GraphModule, list[fx.Node]]:
    module = copy.deepcopy(made.module)
    by_name = {node.name: node for node in module.graph.nodes}
    return module, [by_name[node.name] for node in made.codes.values()]


def _return_too(made: Rewritten, graph: fx.Graph, nodes: list[fx.Node]) -> None:
    (output,) = (node for node in graph.nodes if node.op == "output")
    if made.constants == "float":
        back = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        with graph.inserting_before(output):
            nodes = [graph.call_function(back, (node, *node.args[1:])) for node in nodes]
    output.args = ((*output.args[0], *nodes),)  # pyright: ignore[reportGeneralTypeIssues]


def _ready(module: fx.GraphModule) -> fx.GraphModule:
    module.graph.set_codegen(CodeGen())  # arguments and outputs are plain tuples now
    module.graph.lint()
    module.recompile()
    return module
