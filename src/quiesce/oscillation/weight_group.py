"""Groups of weights that share a grid, so that a few passes over memory process all layers.

A group assigns an index, an "entry", to every weight of its layers. State per weight (history
records, and frequencies and averages of the tracker) is stored in this order. Each layer begins at
a multiple of `ROW`; the gaps are padding. Entries of a layer are in storage order, so a
channels-last weight is not permuted. Layers are sorted by size, so that small ones are adjacent.

The weights stay in the memory of their parameters, because other code (savers, optimizers, FSDP2)
relies on that. `weight_blocks` reads all of them, block by block, and `selected_weights` reads
some. The history records, which no other code reads, are moved into one tensor; copies, pickles
and the `state_dict` of a layer hold copies of its own records.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.fake_quantize import positive
from quiesce.arithmetic.memory_order import outermost_first, storage_order
from quiesce.errors import TrackingError
from quiesce.quantization.quantized_weight import QuantizedWeight

ROW = 64
"""Entries per row: a whole number of vector registers and cache lines on every machine."""

LARGEST = 2**22
"""Maximum number of weights that are read together, to limit temporary memory."""


def weight_groups(weights: Sequence[QuantizedWeight]) -> list[WeightGroup]:
    """Group the weights that one kernel can process.

    They have the same grid, dtype, device, estimator and split over processes.
    """
    groups: dict[object, list[QuantizedWeight]] = {}
    for weight in weights:
        held, split = weight.held, weight.shards and weight.shards.key
        kind = (weight.grid, held.dtype, held.device, weight.estimator)
        groups.setdefault((*kind, scales_share_rows(weight), split), []).append(weight)
    return [
        WeightGroup(sorted(group, key=lambda weight: weight.held.numel()))
        for group in groups.values()
    ]


class WeightGroup:
    """Weights with the same grid, dtype and device, and the order of their entries.

    Attributes:
        weights: The weights.
        grid: The grid of every weight.
        layout: The layout of every history record.
        device: The device of every weight.
        on_cpu: Whether reading a number from a tensor needs no synchronization.
        starts: The first entry of each layer, and the number of entries.
        ends: The entry after each layer and its padding: int64 (layers,).
        records: The history records: (entries,).
        frozen_from: The smallest record of a frozen weight; those of all others are smaller.
        latents: The latents of each layer, as of the last `refresh`; views.
        scales: The scales of each layer, as of the last `refresh`: (scales,), above 0.
    """

    def __init__(self, weights: Sequence[QuantizedWeight]) -> None:
        self.weights = list(weights)
        self.grid, self.layout = weights[0].grid, weights[0].layout
        self.frozen_from = 4 << self.layout.width  # the flag is the highest bit
        self.latents = [weight.held for weight in weights]
        self.dtype, self.device = self.latents[0].dtype, self.latents[0].device
        self.on_cpu = self.device.type == "cpu"
        self._shapes = [latent.shape for latent in self.latents]
        self._strides = [latent.stride() for latent in self.latents]
        rows = [-(-latent.numel() // ROW) for latent in self.latents]
        self._row_counts = torch.tensor(rows, device=self.device)
        self.ends = (self._row_counts * ROW).cumsum(0)
        self.starts = [0, *self.ends.tolist()]
        zero = torch.zeros((), device=self.device)
        still = weight_history.pack(zero, weight_history.STILL, False, self.layout)
        self.records = still.repeat(len(self))  # padding has code 0, and keeps it
        self._places: list[object] = [None] * len(self.weights)
        self._raw_scales = [weight.raw_scale.reshape(-1) for weight in weights]
        self._scale_counts = [len(scale) for scale in self._raw_scales]
        self._computed: set[int] = set()  # layers whose scales are no views of a parameter
        self.refresh()

    def __len__(self) -> int:
        """Return the number of entries, including padding."""
        return self.starts[-1]

    def zeros(self) -> Tensor:
        """Return float32 zeros, one per entry: (entries,)."""
        return torch.zeros(len(self), device=self.device)

    def layer(self, values: Tensor, index: int) -> Tensor:
        """Return the part of layer `index`, in the shape and strides of its latent: a view.

        Args:
            values: One number per entry, contiguous.
            index: Position in `weights`.
        """
        shape, strides = self._shapes[index], self._strides[index]
        return values.detach().as_strided(shape, strides, self.starts[index])

    @torch.no_grad()
    def refresh(self) -> None:
        """Find the weights where they are now; call it before reading blocks or selected weights.

        Other code changes scales, and can replace tensors (a checkpoint, for example).

        Raises:
            TrackingError: The memory format, dtype or device of a weight has changed.
        """
        for i, weight in enumerate(self.weights):
            if weight.place != self._places[i]:
                self._find(i)
                self._places[i] = weight.place
        for i in self._computed:
            self._raw_scales[i] = self.weights[i].raw_scale.reshape(-1)
        scales = positive(torch.cat(self._raw_scales))
        self.scales = scales.split(self._scale_counts)

    def _find(self, index: int) -> None:
        """Take views of a weight and its scale, and move its records into `records`."""
        weight, latent = self.weights[index], self.weights[index].held
        if latent.stride() != self._strides[index]:
            raise TrackingError(
                f"{weight.name}: the weight has changed its memory format since the tracker "
                "was made; call .to(memory_format=...) first, then make the tracker"
            )
        if (latent.dtype, latent.device) != (self.dtype, self.device):
            raise TrackingError(
                f"{weight.name}: the weight was {self.dtype} on {self.device} when the tracker "
                f"was made and is {latent.dtype} on {latent.device} now; move the model first, "
                "then make the tracker"
            )
        self.latents[index] = latent
        mine = self.layer(self.records, index)
        if weight.history.data_ptr() != mine.data_ptr():
            weight.history = mine.copy_(weight.history)
        raw = weight.raw_scale
        self._raw_scales[index] = raw.reshape(-1)
        kept = raw.untyped_storage().data_ptr() == weight.whole_scale.untyped_storage().data_ptr()
        (self._computed.discard if kept else self._computed.add)(index)

    def write_back(self) -> None:
        """Write frozen latents to the weights, where a pass has changed copies of them."""
        for weight in self.weights:
            weight.write_back()

    def layers_of(self, where: Tensor) -> Tensor:
        """Return the positions in `weights` of the layers of entries: int64, shape of `where`."""
        return torch.bucketize(where, self.ends, right=True)

    def count(self, where: Tensor) -> Tensor:
        """Return the number of entries of an ascending index in each layer: int64 (layers,)."""
        before = torch.searchsorted(where, self.ends)
        return before.diff(prepend=before.new_zeros(1))

    def count_above(self, values: Tensor, cut: float) -> Tensor:
        """Return the number of weights of each layer with a value above `cut`: float64 (layers,).

        Args:
            values: One number per entry, 0 in the padding.
            cut: The limit, 0 or more.
        """
        by_row = (values.view(-1, ROW) > cut).sum(1).double()
        # unsafe: skips the check of lengths, which would synchronise with an accelerator
        return torch.segment_reduce(by_row, "sum", lengths=self._row_counts, unsafe=True)

    def count_frozen(self) -> Tensor:
        """Return the number of frozen weights of each layer: int64 (layers,)."""
        self.refresh()
        return self.count_above(self.records, self.frozen_from - 1).long()


def scales_by_row(weight: QuantizedWeight) -> bool:
    """Return whether weights of one scale are adjacent in memory."""
    scale = weight.raw_scale
    if weight.group_size is not None:
        return True  # `prepare` takes only contiguous weights
    return outermost_first(storage_order(weight.held)) and len(scale) == scale.numel()


def table_shape(weight: QuantizedWeight) -> tuple[int, int]:
    """Return rows and columns of a weight in storage order, such that a row has one scale.

    Rows are groups, or else the outermost dimension, if `scales_by_row` or there is one scale.
    """
    held, order = weight.held, storage_order(weight.held)
    if weight.group_size is not None:
        return held.numel() // weight.group_size, weight.group_size
    rows = held.shape[order[0] if order else 0] if held.dim() else 1
    return rows, held.numel() // max(1, rows)


def scales_share_rows(weight: QuantizedWeight) -> bool:
    """Return whether a row of `ROW` entries would contain weights of different scales."""
    scale, held = weight.raw_scale, weight.held
    if scale.numel() <= 1:
        return False
    return not scales_by_row(weight) or (held.numel() // scale.numel()) % ROW != 0
