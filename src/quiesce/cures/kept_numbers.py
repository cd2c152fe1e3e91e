"""Numbers that a cure keeps for each of its weights, in the order of the tracker's groups."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quiesce.cures.selection import Selection
from quiesce.errors import TrackingError
from quiesce.oscillation.weight_group import WeightGroup
from quiesce.oscillation.weight_parts import part_of

Kept = list[tuple[WeightGroup, dict[str, Tensor]]]
"""Groups, and for each the numbers of its weights by name: (entries,)."""


def kept_zeros(selection: Selection, dtypes: Mapping[str, torch.dtype | None]) -> Kept:
    """Return zeros for every weight in the groups of a selection.

    Args:
        dtypes: Names and types of the numbers; None stands for the type of the weights.
    """
    return [
        (
            group,
            {
                name: torch.zeros(len(group), dtype=dtype or group.dtype, device=group.device)
                for name, dtype in dtypes.items()
            },
        )
        for group in selection.groups
    ]


def copied_latents(selection: Selection) -> list[Tensor]:
    """Return a copy of the latents of each group of a selection: (entries,)."""
    copies = []
    for group in selection.groups:
        group.refresh()
        copy = torch.zeros(len(group), dtype=group.dtype, device=group.device)
        layers = [group.layer(copy, i) for i in range(len(group.weights))]
        torch._foreach_copy_(layers, group.latents)  # pyright: ignore[reportPrivateImportUsage]
        copies.append(copy)
    return copies


def save_kept(kept: Kept, selection: Selection) -> dict[str, dict[str, Tensor]]:
    """Return copies by layer and name, those of split weights whole."""
    layers = {}
    for group, numbers in kept:
        for i, weight in enumerate(group.weights):
            mine = {name: _copy(group.layer(values, i)) for name, values in numbers.items()}
            if weight.shards is not None:
                mine = {name: weight.shards.join(values) for name, values in mine.items()}
            layers[weight.name] = mine
    # processes gather split tensors in this order, and groups can differ between processes
    names = [each.name for each in selection.tracker.weights if each.name in layers]
    return {name: layers[name] for name in names}


def load_kept(kept: Kept, layers: Mapping[str, Any], cure: str) -> None:
    """Load the result of `save_kept`.

    Raises:
        TrackingError: It is of other layers.
    """
    for group, numbers in kept:
        for i, weight in enumerate(group.weights):
            for name, values in numbers.items():
                saved = part_of(layers[weight.name][name], weight.shards)
                mine = group.layer(values, i)
                if saved is None or saved.shape != mine.shape:
                    raise TrackingError(f"the saved {cure} has {weight.name} in another shape")
                mine.copy_(saved)


def _copy(values: Tensor) -> Tensor:
    return values.clone(memory_format=torch.contiguous_format)
