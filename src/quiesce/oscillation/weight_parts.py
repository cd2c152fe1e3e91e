"""Numbers of layers whose weights are split over processes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.parallel.split_weights import Shards, whole
from quiesce.quantization.quantized_weight import QuantizedWeight


def over_parts(weights: Sequence[QuantizedWeight], rows: Sequence[Tensor]) -> Tensor:
    """Return one row per layer, summed over the parts of each split weight: (layers, columns).

    All processes that share a weight must call this with the same layers in the same order.

    Args:
        weights: The weights.
        rows: Numbers of the part of each weight in this process: (columns,) each.
    """
    table = torch.stack(list(rows))
    groups: dict[object, list[int]] = {}
    for i, weight in enumerate(weights):
        groups.setdefault(weight.shards and weight.shards.key, []).append(i)
    for members in groups.values():
        shards = weights[members[0]].shards
        if shards is not None:
            table[members] = shards.total(table[members])
    return table


def part_of(values: Tensor | None, shards: Shards | None) -> Tensor | None:
    """Return the part of a saved tensor, whole or split, that belongs to this process."""
    return whole(values) if values is None or shards is None else shards.part(values)
