"""The weights of a group as 2-D blocks that a pass can change in place.

A network has dozens of layers, most of them small. With one pass per layer, the call overhead would
dominate. Passes therefore run on blocks:

- a large layer is read in place, as one or more blocks;
- small layers are gathered into a scratch buffer that fits the cache; the pass runs on the buffer,
  and its changes are copied back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.memory_order import flatten, storage_order
from quiesce.oscillation.weight_group import (
    LARGEST,
    ROW,
    WeightGroup,
    scales_by_row,
    scales_share_rows,
    table_shape,
)
from quiesce.quantization.quantized_weight import QuantizedWeight

_IN_PLACE = {"cpu": 2**15}
"""Smallest layer that is read in place, by device type: copying it would take longer than a call.

On an accelerator the number of kernel launches matters, so only `LARGEST` layers are.
"""

_GATHERED = {"cpu": 2**18}
"""Largest gathered block by device type, in entries: 1 MB of latents, which fits a CPU cache."""


def weight_blocks(group: WeightGroup) -> list[Block]:
    """Divide a group into blocks in the order of the entries; every weight is in one block."""
    in_place = _IN_PLACE.get(group.device.type, LARGEST)
    most = _GATHERED.get(group.device.type, LARGEST)
    blocks: list[Block] = []
    small: list[int] = []
    scratch = torch.zeros(0, dtype=group.dtype, device=group.device)

    def gather() -> None:
        if small:
            blocks.append(GatheredBlock(group, small.copy(), scratch))
            small.clear()

    for i, (begin, end) in enumerate(pairwise(group.starts)):
        if end - begin >= in_place and _has_rows(group.weights[i]):
            gather()
            blocks.extend(_layer_blocks(group, i))
            continue
        if small and end - group.starts[small[0]] > most:
            gather()
        small.append(i)
    gather()
    return blocks


class Block:
    """Some weights of a group as a 2-D table that a pass can change in place.

    Args:
        shape: Rows and columns; the block has rows times columns entries.

    Attributes:
        group: The group.
        start: The first entry.
        layers: Positions in `group.weights` of the layers with weights in this block.
    """

    layers: Sequence[int]

    def __init__(self, group: WeightGroup, start: int, shape: tuple[int, int]) -> None:
        self.group, self.start, self._shape = group, start, shape
        self._size = shape[0] * shape[1]

    def __len__(self) -> int:
        return self._size

    def of(self, values: Tensor) -> Tensor:
        """Return the values of this block as a view: (rows, columns)."""
        return values[self.start : self.start + self._size].view(self._shape)

    def read(self) -> weight_passes.Operands:
        """Return the weights, (rows, columns), with the scales of the group's last `refresh`.

        The result is valid until another block is read.
        """
        first = self.group.weights[0]
        latents, records = self._latents(), self.of(self.group.records)
        return weight_passes.Operands(
            latents, self._scale(), first.limits, records, first.estimator, first.grid.levels
        )

    def _latents(self) -> Tensor:
        raise NotImplementedError

    def _scale(self) -> Tensor:
        """Return floats per code: (rows, 1), or (rows, columns) if a row has several scales."""
        raise NotImplementedError

    def write_back(self) -> None:
        """Copy the latents that a pass has changed in the result of `read` to the layers."""
        raise NotImplementedError

    def write_back_pinned(self) -> None:
        """Write back after `settle` on a CPU, which changes only the latents of frozen weights."""
        raise NotImplementedError

    def per_row(self, layer_values: Sequence[float]) -> Tensor:
        """Expand one number per layer of the group to one per row: float32 (rows, 1)."""
        raise NotImplementedError

    def per_layer(self, row_values: Tensor) -> Tensor:
        """Sum over the rows of each layer of the group: (..., rows) to (..., layers)."""
        raise NotImplementedError

    def result(self, of_layers: dict[int, Tensor]) -> Tensor:
        """Return a table of this block for results in the dtype of the latents: (rows, columns).

        Args:
            of_layers: The same memory by position of the layer, in the shape and strides of the
                latents; layers that are not there yet are added.
        """
        raise NotImplementedError

    def run(
        self, function: weight_passes.Pass, now: weight_passes.Operands, *args: Tensor | None
    ) -> Tensor:
        """Run a pass, as one kernel if kernels are compiled."""
        return self.group.weights[0].kernels.over_weights(function, now, *args)

    def settle(self, now: weight_passes.Operands) -> None:
        """Set the latents of frozen weights to scale * code."""
        self.run(weight_passes.settle, now, torch.empty_like(now.latent, dtype=torch.uint8))

    @torch.no_grad()
    def freeze(self, now: weight_passes.Operands, codes: Tensor, where: Tensor) -> None:
        """Freeze the codes permanently and set the latents; frozen weights do not change.

        Args:
            now: Result of `read`.
            codes: Integral values on the grid: (rows, columns).
            where: Mask of the weights to freeze: bool (rows, columns).
        """
        pinned = weight_history.freeze(now.records, codes, self.group.layout)
        now.records.copy_(torch.where(where, pinned, now.records))
        self.settle(now)
        self.write_back()


class LayerBlock(Block):
    """Rows of one large layer, read in place.

    Args:
        index: Position of the layer in `group.weights`.
        rows: Range of rows of the layer, with dimension 0 in storage order as rows.
    """

    def __init__(self, group: WeightGroup, index: int, rows: range) -> None:
        self._weight = group.weights[index]
        self._order = storage_order(self._weight.held)
        columns = table_shape(self._weight)[1]
        self._first = rows.start * columns
        super().__init__(group, group.starts[index] + self._first, (len(rows), columns))
        self.layers = [index]
        self._index, self._rows = index, rows

    def _latents(self) -> Tensor:
        return self._mine(self.group.latents[self._index])

    def _mine(self, values: Tensor) -> Tensor:
        """Return the rows of this block in values of the layer: a view."""
        flat = flatten(values, self._order)
        return flat[self._first : self._first + self._size].view(self._shape)

    def _scale(self) -> Tensor:
        scale = self.group.scales[self._index].view(-1, 1)
        if len(scale) > 1:
            scale = scale[self._rows.start : self._rows.stop]
        # of one size for any layout of scales, so that one kernel serves all
        return scale.expand(self._shape[0], 1).contiguous()

    def write_back(self) -> None:
        """Do nothing: a pass changes the layer itself."""

    def write_back_pinned(self) -> None:
        """Do nothing."""

    def per_row(self, layer_values: Sequence[float]) -> Tensor:
        """Return the same number for every row."""
        return torch.full((self._shape[0], 1), layer_values[self._index], device=self.group.device)

    def per_layer(self, row_values: Tensor) -> Tensor:
        """Return the sum over all rows for this layer, and zeros for the others."""
        sums = row_values.new_zeros(*row_values.shape[:-1], len(self.group.weights))
        sums[..., self._index] = row_values.sum(-1)
        return sums

    def result(self, of_layers: dict[int, Tensor]) -> Tensor:
        """Return rows of a tensor for the layer."""
        if self._index not in of_layers:
            of_layers[self._index] = torch.empty_like(self.group.latents[self._index])
        return self._mine(of_layers[self._index])


class GatheredBlock(Block):
    """Small layers in consecutive rows of `ROW` entries in a scratch buffer."""

    def __init__(self, group: WeightGroup, indices: list[int], scratch: Tensor) -> None:
        start, end = group.starts[indices[0]], group.starts[indices[-1] + 1]
        super().__init__(group, start, ((end - start) // ROW, ROW))
        self.layers, self._scratch = indices, scratch
        self._weights = [group.weights[i] for i in indices]
        sizes = [weight.held.numel() for weight in self._weights]
        begins = [group.starts[i] - start for i in indices]
        ends = [*begins[1:], len(self)]
        gaps = zip(begins, sizes, ends, strict=True)
        gaps = [torch.arange(begin + size, end) for begin, size, end in gaps]
        self._padding = torch.cat(gaps).to(group.device)
        rows = [-(-size // ROW) for size in sizes]
        self._row_counts = torch.tensor(rows, device=group.device)
        repeats = []
        for weight, count in zip(self._weights, rows, strict=True):
            scales = weight.raw_scale.numel()  # 0 if this process has no part of a split weight
            repeats += [count // max(1, scales)] * scales
        shared = scales_share_rows(self._weights[0])
        self._rows_per_scale = None if shared else torch.tensor(repeats, device=group.device)
        if len(self) > len(scratch):
            scratch.resize_(len(self))
        self._table: tuple[Tensor, list[Tensor]] | None = None

    def _latents(self) -> Tensor:
        table, views = self._gathered()
        # another block may have used the buffer: padding must have code 0
        table.view(-1).index_fill_(0, self._padding, 0)
        _copy(views, self._layers())
        return table

    def write_back(self) -> None:
        """Copy the latents back."""
        _copy(self._layers(), self._gathered()[1])

    def _layers(self) -> list[Tensor]:
        return self.group.latents[self.layers[0] : self.layers[-1] + 1]

    def write_back_pinned(self) -> None:
        """Copy the latents back if any weight of the block is frozen."""
        if int(self.of(self.group.records).max()) >= self.group.frozen_from:
            self.write_back()

    def per_row(self, layer_values: Sequence[float]) -> Tensor:
        """Return for every row the number of its layer."""
        values = torch.tensor([layer_values[i] for i in self.layers], device=self.group.device)
        values = values.float().repeat_interleave(self._row_counts, output_size=self._shape[0])
        return values.view(-1, 1)

    def per_layer(self, row_values: Tensor) -> Tensor:
        """Return sums over rows for these layers, and zeros for the others."""
        sums = row_values.new_zeros(*row_values.shape[:-1], len(self.group.weights))
        lengths = self._row_counts.expand(*row_values.shape[:-1], -1)
        # unsafe: skips the check of lengths, which would synchronise with an accelerator
        sums[..., self.layers[0] : self.layers[-1] + 1] = torch.segment_reduce(
            row_values, "sum", lengths=lengths, axis=row_values.dim() - 1, unsafe=True
        )
        return sums

    def result(self, of_layers: dict[int, Tensor]) -> Tensor:
        """Return a table of which the tensors of the layers are parts."""
        table = self._scratch.new_empty(self._shape)
        of_layers.update(zip(self.layers, self._views(table), strict=True))
        return table

    def _gathered(self) -> tuple[Tensor, list[Tensor]]:
        """Return the scratch buffer, and views in it of all layers."""
        if self._table is None:
            table = self._scratch[: len(self)].view(self._shape)
            self._table = table, self._views(table)
        return self._table

    def _views(self, table: Tensor) -> list[Tensor]:
        """Return views of the layers in a table, in the shapes and strides of their latents."""
        offset = table.storage_offset() - self.start
        return [
            table.as_strided(weight.held.shape, weight.held.stride(), offset + self.group.starts[i])
            for i, weight in zip(self.layers, self._weights, strict=True)
        ]

    def _scale(self) -> Tensor:
        scales = self.group.scales[self.layers[0] : self.layers[-1] + 1]
        if self._rows_per_scale is None:
            spread = scales[0].new_ones(self._shape)
            for view, weight in zip(self._views(spread), self._weights, strict=True):
                view.copy_(weight.scale)
            return spread
        rows = torch.cat(scales).repeat_interleave(self._rows_per_scale, output_size=self._shape[0])
        return rows.view(-1, 1)


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def _layer_blocks(group: WeightGroup, index: int) -> Iterator[LayerBlock]:
    rows, columns = table_shape(group.weights[index])
    step = max(2, LARGEST // columns)
    for first in range(0, rows, step):
        yield LayerBlock(group, index, range(first, min(rows, first + step)))


def _has_rows(weight: QuantizedWeight) -> bool:
    """Return whether a large layer is a table of at least two rows, each with one scale."""
    rows, columns = table_shape(weight)
    # sums over a row are float32, which counts exactly up to 2^24
    fits = rows > 1 and columns < 2**24
    return fits and (weight.raw_scale.numel() <= 1 or scales_by_row(weight))
