"""Weights that share a grid, in one order, so that a few passes over memory serve all layers.

A group gives a place, an "entry", to every weight of its layers. Whoever keeps numbers per weight
(the tracker: frequencies and averages) keeps them in this order. Each layer begins at a multiple of
`ROW`; the gaps are padding. Entries of a layer lie in the order of its storage, so that a
channels-last weight is not permuted.

The weights themselves stay in the memory of their own parameters, because other people's code
(savers, optimizers, FSDP2) relies on that. `weight_blocks` reads all of them, block by block, and
`selected_weights` reads some.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.arithmetic.memory_order import flatten, outermost_first, storage_order
from quiesce.errors import TrackingError
from quiesce.quantization.quantized_weight import QuantizedWeight

ROW = 64
"""Entries of a row: a whole number of vector registers and cache lines on every machine."""

LARGEST = 2**22
"""Weights that are read together at most, so that temporaries stay small."""


def weight_groups(weights: Sequence[QuantizedWeight]) -> list[WeightGroup]:
    """Put weights that one kernel can serve into one group.

    They have the same bits, dtype, device and estimator, and are split over processes in one way.
    """
    groups: dict[object, list[QuantizedWeight]] = {}
    for weight in weights:
        held, split = weight.held, weight.shards and weight.shards.key
        kind = (weight.grid.bits, held.dtype, held.device, weight.estimator)
        groups.setdefault((*kind, scales_share_rows(weight), split), []).append(weight)
    return [WeightGroup(group) for group in groups.values()]


class WeightGroup:
    """Weights of one grid, one dtype and one device, and the order of their entries.

    Args:
        weights: As `weight_groups` puts them together.

    Attributes:
        weights: The same.
        grid: The grid of every weight.
        layout: The layout of every history record.
        device: The device of every weight.
        on_cpu: Whether reading a number from a tensor waits for nobody.
        starts: The first entry of each layer, and the number of entries.
        ends: The entry after each layer and its padding: int64 (layers,).
    """

    def __init__(self, weights: Sequence[QuantizedWeight]) -> None:
        self.weights = list(weights)
        self.grid, self.layout = weights[0].grid, weights[0].layout
        held = [weight.held for weight in weights]
        self.dtype, self.device = held[0].dtype, held[0].device
        self.on_cpu = self.device.type == "cpu"
        self._shapes = [latent.shape for latent in held]
        self._strides = [latent.stride() for latent in held]
        rows = [-(-latent.numel() // ROW) for latent in held]
        self._row_counts = torch.tensor(rows, device=self.device)
        self.ends = (self._row_counts * ROW).cumsum(0)
        self.starts = [0, *self.ends.tolist()]

    def __len__(self) -> int:
        """Entries, with the padding."""
        return self.starts[-1]

    def zeros(self) -> Tensor:
        """One float32 for each entry: (entries,)."""
        return torch.zeros(len(self), device=self.device)

    def layer(self, values: Tensor, index: int) -> Tensor:
        """Return the part of layer `index`, in the shape and strides of its latent: a view.

        Args:
            values: One number for each entry, contiguous.
            index: Position in `weights`.
        """
        shape, strides = self._shapes[index], self._strides[index]
        return values.detach().as_strided(shape, strides, self.starts[index])

    def check(self) -> None:
        """Refuse weights that have changed since the group was made.

        Raises:
            TrackingError: A weight has changed its memory format, dtype or device.
        """
        for weight, strides in zip(self.weights, self._strides, strict=True):
            latent = weight.held
            if latent.stride() != strides:
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

    def layers_of(self, where: Tensor) -> Tensor:
        """Positions in `weights` of the layers of some entries: int64, the shape of `where`."""
        return torch.bucketize(where, self.ends, right=True)

    def count(self, where: Tensor) -> Tensor:
        """How many entries of an index belong to each layer: int64 (layers,)."""
        return torch.bincount(self.layers_of(where), minlength=len(self.weights))

    def count_above(self, values: Tensor, cut: float) -> Tensor:
        """How many weights of each layer have a number above `cut`, 0 or more: float64 (layers,).

        Args:
            values: One number for each entry; 0 in the padding.
            cut: The number to compare with.
        """
        by_row = (values.view(-1, ROW) > cut).sum(1).double()
        # unsafe: lengths are not checked, for which the host would wait for an accelerator
        return torch.segment_reduce(by_row, "sum", lengths=self._row_counts, unsafe=True)

    def count_frozen(self) -> Tensor:
        """How many weights of each layer are frozen: int64 (layers,)."""
        counts = []
        for weight in self.weights:  # in parts, since a flag takes 4 bytes on its way
            parts = flatten(weight.history, storage_order(weight.held)).split(LARGEST)
            flags = [weight_history.is_frozen(part, self.layout).sum() for part in parts]
            counts.append(torch.stack(flags).sum())
        return torch.stack(counts)


def scales_by_row(weight: QuantizedWeight) -> bool:
    """Whether weights of one scale lie side by side in memory."""
    scale = weight.raw_scale
    return outermost_first(storage_order(weight.held)) and len(scale) == scale.numel()


def scales_share_rows(weight: QuantizedWeight) -> bool:
    """Whether some row of `ROW` entries would hold weights of different scales."""
    scale, held = weight.raw_scale, weight.held
    if scale.numel() <= 1:
        return False
    return not scales_by_row(weight) or (held.numel() // len(scale)) % ROW != 0
