"""Reading and freezing of selected weights of a group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.fake_quantize import positive
from quiesce.arithmetic.memory_order import flatten, storage_order
from quiesce.oscillation.weight_group import WeightGroup, scales_by_row
from quiesce.quantization.quantized_weight import QuantizedWeight


class SelectedWeights:
    """Selected weights of a group, read when the object is created.

    Args:
        group: The group.
        where: Ascending 1-D int64 index of entries.
        now: The weights, if they have already been read.

    Attributes:
        group: The group.
        where: The index.
        now: The weights: every field (selected,).
    """

    def __init__(
        self, group: WeightGroup, where: Tensor, now: weight_passes.Operands | None = None
    ) -> None:
        self.group, self.where = group, where
        ends = torch.searchsorted(where, group.ends).tolist()
        self._picks = [
            (group.weights[i], where[begin:end] - group.starts[i])
            for i, (begin, end) in enumerate(pairwise([0, *ends]))
            if begin != end
        ]
        self.now = now or _read_at(self._picks)

    def of(self, values: Tensor) -> Tensor:
        """Select from values of all entries those of these weights: (selected,)."""
        return values[self.where]

    @torch.no_grad()
    def freeze(self, codes: Tensor) -> None:
        """Freeze the codes permanently and set the latents; frozen weights do not change.

        Args:
            codes: Integral values on the grid: (selected,).
        """
        records = weight_history.freeze(self.now.records, codes, self.group.layout)
        self.now = self.now._replace(records=records)
        self.write_records(records)
        latents = weight_passes.quantized(self.now).to(self.now.latent.dtype)
        for (weight, places), part in zip(self._picks, self._split(latents), strict=True):
            flatten(weight.held, storage_order(weight.held))[places] = part

    @torch.no_grad()
    def write_records(self, records: Tensor) -> None:
        """Write new records, shape (selected,), to the layers."""
        for (weight, places), part in zip(self._picks, self._split(records), strict=True):
            flatten(weight.history, storage_order(weight.held))[places] = part

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        return values.split([len(places) for _, places in self._picks])


def sample(group: WeightGroup, most: int | None) -> tuple[weight_passes.Operands, list[int]]:
    """Read an evenly spaced sample of `most` weights (or slightly more) of each layer, or all.

    Returns:
        The sample in the order of layers, every field (sampled,); and its size for each layer.
    """
    picks = []
    for weight in group.weights:
        size = weight.held.numel()
        step = 1 if most is None else max(1, size // most)
        picks.append((weight, torch.arange(0, size, step, device=group.device)))
    return _read_at(picks), [len(places) for _, places in picks]


def _read_at(picks: Sequence[tuple[QuantizedWeight, Tensor]]) -> weight_passes.Operands:
    """Read weights at positions in the storage order of their layers: every field (selected,)."""
    latents, scales, records = [], [], []
    for weight, places in picks:
        order = storage_order(weight.held)
        latents.append(flatten(weight.held, order)[places])
        records.append(flatten(weight.history, order)[places])
        scales.append(_scale_at(weight, places))
    first = picks[0][0]
    return weight_passes.Operands(
        torch.cat(latents), torch.cat(scales), first.limits, torch.cat(records), first.estimator
    )


def _scale_at(weight: QuantizedWeight, places: Tensor) -> Tensor:
    scale, held = weight.scale, weight.held
    if not len(places):  # another process may hold all of a split weight
        return scale.reshape(-1)[:0]
    if scale.numel() == 1:
        return scale.reshape(1).expand(len(places))
    if scales_by_row(weight):
        by_row = positive(weight.raw_scale).reshape(-1)
        return by_row[places // (held.numel() // by_row.numel())]
    return flatten(scale.expand_as(held), storage_order(held))[places]
