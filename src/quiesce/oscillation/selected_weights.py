"""Reading and freezing of selected weights of a group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.memory_order import flatten, storage_order
from quiesce.oscillation.weight_group import WeightGroup, scales_by_row


class SelectedWeights:
    """Selected weights of a group, as of its last `refresh`.

    Args:
        group: The group.
        where: Ascending 1-D int64 index of entries.

    Attributes:
        group: The group.
        where: The index.
        records: Their history records: (selected,).
    """

    def __init__(self, group: WeightGroup, where: Tensor) -> None:
        self.group, self.where = group, where
        ends = torch.searchsorted(where, group.ends).tolist()
        self._picks = [
            (i, where[begin:end] - group.starts[i])
            for i, (begin, end) in enumerate(pairwise([0, *ends]))
            if begin != end
        ]
        self.records = group.records[where]

    def read(self) -> weight_passes.Operands:
        """Return the weights: every field (selected,)."""
        return _read_at(self.group, self._picks)

    def of(self, values: Tensor) -> Tensor:
        """Select from values of all entries those of these weights: (selected,)."""
        return values[self.where]

    @torch.no_grad()
    def freeze(self, codes: Tensor) -> None:
        """Freeze the codes permanently and set the latents; frozen weights do not change.

        Args:
            codes: Integral values on the grid: (selected,).
        """
        self.records = weight_history.freeze(self.records, codes, self.group.layout)
        self.group.records[self.where] = self.records
        latents = weight_passes.quantized(self.read()).to(self.group.dtype)
        parts = latents.split([len(places) for _, places in self._picks])
        for (i, places), part in zip(self._picks, parts, strict=True):
            latent = self.group.latents[i]
            flatten(latent, storage_order(latent))[places] = part


def sample(group: WeightGroup, most: int | None) -> tuple[weight_passes.Operands, list[int]]:
    """Read an evenly spaced sample of `most` weights (or slightly more) of each layer, or all.

    Returns:
        The sample in the order of layers, every field (sampled,); and its size for each layer.
    """
    picks = []
    for i, latent in enumerate(group.latents):
        size = latent.numel()
        step = 1 if most is None else max(1, size // most)
        picks.append((i, torch.arange(0, size, step, device=group.device)))
    return _read_at(group, picks), [len(places) for _, places in picks]


def _read_at(group: WeightGroup, picks: Sequence[tuple[int, Tensor]]) -> weight_passes.Operands:
    """Read weights at positions in the storage order of their layers: every field (selected,)."""
    latents, scales = [], []
    for i, places in picks:
        latent = group.latents[i]
        latents.append(flatten(latent, storage_order(latent))[places])
        scales.append(_scale_at(group, i, places))
    records = group.records[torch.cat([places + group.starts[i] for i, places in picks])]
    first = group.weights[0]
    return weight_passes.Operands(
        torch.cat(latents),
        torch.cat(scales),
        first.limits,
        records,
        first.estimator,
        first.grid.levels,
    )


def _scale_at(group: WeightGroup, index: int, places: Tensor) -> Tensor:
    scale, latent = group.scales[index], group.latents[index]
    if not len(places):  # another process may hold all of a split weight
        return scale[:0]
    if len(scale) == 1:
        return scale.expand(len(places))
    weight = group.weights[index]
    if scales_by_row(weight):
        return scale[places // (latent.numel() // len(scale))]
    return flatten(weight.scale.expand_as(latent), storage_order(latent))[places]
