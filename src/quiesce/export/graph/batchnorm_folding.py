"""Folds batch norms into the scale and bias of the layer before; no code changes.

A layer with codes z gives y = s z*x + b, and the batch norm after it g (y - m) / sqrt(v + eps) + h.
With k = g / sqrt(v + eps), both together are (s k) z*x + (b - m) k + h: a scale per output channel,
negative where g is negative, and a new bias. All arithmetic is in float64.
"""

from typing import TYPE_CHECKING

import numpy as np

from quiesce.export.graph.edits import constant, replace, sole_use
from quiesce.export.graph.weight_sites import Site, parameter_name

if TYPE_CHECKING:
    import onnx_ir as ir


def fold_batchnorms(sites: list[Site]) -> None:
    """Fold each batch norm that is the only reader of a site into that site."""
    for site in sites:
        norm = None if site.node is None else sole_use(site.node.outputs[0])
        if norm is not None and norm.op_type == "BatchNormalization" and _is_per_channel(site):
            _fold(site, norm)


def _is_per_channel(site: Site) -> bool:
    """Return whether weight and batch norm have the same channels, with one scale each."""
    node = site.node
    if node is None or site.layer.group_size is not None:
        return False
    if site.kind == "linear":  # not (batch, tokens, features)
        rank = node.outputs[0].shape
        return rank is not None and len(rank) == 2
    group = node.attributes.get("group")
    return node.op_type == "Conv" or group is None or group.as_int() == 1


def _fold(site: Site, norm: "ir.Node") -> None:
    numbers = [constant(value) for value in norm.inputs[1:5]]
    if any(each is None for each in numbers):
        return
    gamma, beta, mean, var = (np.asarray(each, dtype=np.float64) for each in numbers)
    epsilon = norm.attributes.get("epsilon")
    factor = gamma / np.sqrt(var + (1e-5 if epsilon is None else epsilon.as_float()))
    bias = 0.0 if site.bias is None else site.bias
    site.scale = site.per_channel * factor
    site.bias = (bias - mean) * factor + beta
    site.bias_parameter = parameter_name(norm.inputs[2])
    site.normed = True
    replace(norm, site.node.outputs[0])  # pyright: ignore[reportOptionalMemberAccess]
