"""Small edits of an onnx_ir graph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quiesce.extras import require

if TYPE_CHECKING:
    import onnx_ir as ir


def onnx_ir() -> Any:
    """Return the package onnx_ir, which onnxscript installs."""
    return require("onnx_ir", "export to ONNX", "onnx")


def constant(value: "ir.Value | None") -> np.ndarray | None:
    """Return the numbers of an initializer or a Constant node, or None for another value."""
    tensor = None if value is None else onnx_ir().convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def sole_use(value: "ir.Value") -> "ir.Node | None":
    """Return the only node that reads a value; None for several readers, none, or an output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


class Builder:
    """Adds nodes and initializers to a graph, before or after a given node."""

    def __init__(
        self, graph: "ir.Graph", *, before: "ir.Node | None" = None, after: "ir.Node | None" = None
    ) -> None:
        self._graph = graph
        self._before = before
        self._after = after

    def constant(self, name: str, array: np.ndarray) -> "ir.Value":
        """Return the initializer of this name, and create it at its first use."""
        ir = onnx_ir()
        made = self._graph.initializers.get(name)
        if made is not None and np.array_equal(constant(made), array):  # pyright: ignore[reportArgumentType]
            return made
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def node(
        self,
        op: str,
        inputs: "Sequence[ir.Value | None]",
        name: str,
        like: "ir.Value | None" = None,
        domain: str = "",
        **attributes: Any,
    ) -> "ir.Value":
        """Return the output `name` of a new node; its type and shape are those of `like`."""
        node = onnx_ir().node(op, inputs, attributes=attributes, domain=domain)
        node.name = name
        node.outputs[0].name = name
        if like is not None:
            node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
        if self._before is not None:
            self._graph.insert_before(self._before, node)
        elif self._after is not None:
            self._graph.insert_after(self._after, node)
            self._after = node
        return node.outputs[0]


def replace(node: "ir.Node", value: "ir.Value") -> None:
    """Replace the first output of `node` by `value` for all readers, and remove `node`."""
    old = node.outputs[0]
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)  # pyright: ignore[reportOptionalMemberAccess]
