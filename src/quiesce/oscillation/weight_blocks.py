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
from quiesce.arithmetic.fake_quantize import positive
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

_GATHERED = {"cpu": 2**18}
"""Largest gathered block by device type, in entries: 1 MB of latents, which fits a CPU cache.

On an accelerator the number of kernel launches matters instead, so the limit is `LARGEST`.
"""


def weight_blocks(group: WeightGroup) -> list[Block]:
    """Divide a group into blocks in the order of the entries; every weight is in one block."""
    most = _GATHERED.get(group.device.type, LARGEST)
    blocks: list[Block] = []
    small: list[int] = []
    scratch = _Scratch(group)

    def gather() -> None:
        if small:
            blocks.append(GatheredBlock(group, small.copy(), scratch))
            small.clear()

    for i, (begin, end) in enumerate(pairwise(group.starts)):
        if end - begin >= most and _has_rows(group.weights[i]):
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

    layers: list[int]

    def __init__(self, group: WeightGroup, start: int, shape: tuple[int, int]) -> None:
        self.group, self.start, self._shape = group, start, shape

    def __len__(self) -> int:
        return self._shape[0] * self._shape[1]

    def of(self, values: Tensor) -> Tensor:
        """Return the values of this block as a view: (rows, columns)."""
        return values[self.start : self.start + len(self)].view(self._shape)

    def read(self) -> weight_passes.Operands:
        """Return the current weights: (rows, columns); valid until another block is read."""
        raise NotImplementedError

    def write_back(self) -> None:
        """Copy the changes of a pass in the result of `read` to the layers."""
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

    def layer_parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Split a table of this block by layer.

        Yields:
            The position in `group.weights`, and the values of its weights in this block: 1-D, view.
        """
        raise NotImplementedError

    def run(
        self, function: weight_passes.Pass, now: weight_passes.Operands, *args: Tensor | None
    ) -> Tensor:
        """Run a pass, as one kernel if kernels are compiled."""
        return self.group.weights[0].kernels.over_weights(function, now, *args)

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
        self.run(weight_passes.settle, now)
        self.write_back()


class LayerBlock(Block):
    """Rows of one large layer, read in place.

    Args:
        index: Position of the layer in `group.weights`.
        rows: Range of rows of the layer, with dimension 0 in storage order as rows.
    """

    def __init__(self, group: WeightGroup, index: int, rows: range) -> None:
        held = group.weights[index].held
        self._order = storage_order(held)
        columns = table_shape(group.weights[index])[1]
        super().__init__(group, group.starts[index] + rows.start * columns, (len(rows), columns))
        self.layers = [index]
        self._index, self._rows = index, rows

    def read(self) -> weight_passes.Operands:
        """Return views of the layer's own memory."""
        weight = self.group.weights[self._index]
        rows, columns = self._shape
        first = self._rows.start * columns
        latent, records = (
            flatten(values, self._order)[first : first + len(self)].view(rows, columns)
            for values in (weight.held, weight.history)
        )
        scale = positive(weight.raw_scale.reshape(-1, 1))
        if len(scale) > 1:
            scale = scale[self._rows.start : self._rows.stop]
        # of one size for any layout of scales, so that one kernel serves all
        scale = scale.expand(rows, 1).contiguous()
        return weight_passes.Operands(latent, scale, weight.limits, records, weight.estimator)

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

    def layer_parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the whole block."""
        yield self._index, values.view(-1)


class GatheredBlock(Block):
    """Small layers in consecutive rows of `ROW` entries in a scratch buffer."""

    def __init__(self, group: WeightGroup, indices: list[int], scratch: _Scratch) -> None:
        start, end = group.starts[indices[0]], group.starts[indices[-1] + 1]
        super().__init__(group, start, ((end - start) // ROW, ROW))
        self.layers, self._scratch = indices, scratch
        self._weights = [group.weights[i] for i in indices]
        sizes = [weight.held.numel() for weight in self._weights]
        self._padded = sum(sizes) < len(self)
        begins = [group.starts[i] - start for i in indices]
        self._bounds = list(zip(begins, sizes, strict=True))
        rows = [-(-size // ROW) for size in sizes]
        self._row_counts = torch.tensor(rows, device=group.device)
        repeats = []
        for weight, count in zip(self._weights, rows, strict=True):
            scales = weight.raw_scale.numel()  # 0 if this process has no part of a split weight
            repeats += [count // max(1, scales)] * scales
        shared = scales_share_rows(self._weights[0])
        self._rows_per_scale = None if shared else torch.tensor(repeats, device=group.device)
        scratch.reserve(len(self))
        self._kept: tuple[Tensor, Tensor, list[Tensor]] | None = None

    def read(self) -> weight_passes.Operands:
        """Gather the layers."""
        latents, records, views = self._buffers()
        if self._padded:  # another block has used the buffer: padding must have code 0
            latents.zero_()
            records.fill_(self._scratch.still)
        _copy(views, self._layers())
        first = self._weights[0]
        return weight_passes.Operands(
            latents, self._scale(), first.limits, records, first.estimator
        )

    def write_back(self) -> None:
        """Copy latents and records back."""
        _copy(self._layers(), self._buffers()[2])

    def write_back_pinned(self) -> None:
        """Copy latents back if any weight of the block is frozen."""
        _, records, views = self._buffers()
        if int(records.max()) >= self._scratch.frozen:
            count = len(self._weights)
            _copy(self._layers()[:count], views[:count])

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

    def layer_parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the values of each layer."""
        flat = values.view(-1)
        for i, (begin, size) in zip(self.layers, self._bounds, strict=True):
            yield i, flat[begin : begin + size]

    def _layers(self) -> list[Tensor]:
        """Return the latents, then the records, of all layers."""
        return [*(weight.held for weight in self._weights), *(w.history for w in self._weights)]

    def _buffers(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return latents and records in the scratch buffer, and views in them of `_layers`."""
        if self._kept is None:
            scratch, size = self._scratch, len(self)
            latents = scratch.latents[:size].view(self._shape)
            records = scratch.records[:size].view(self._shape)
            self._kept = latents, records, [*self._views(latents), *self._views(records)]
        return self._kept

    def _views(self, table: Tensor) -> Iterator[Tensor]:
        """Yield views of the layers in a table, in the shapes and strides of their latents."""
        offset = table.storage_offset()
        for weight, (begin, _) in zip(self._weights, self._bounds, strict=True):
            held = weight.held
            yield table.as_strided(held.shape, held.stride(), offset + begin)

    def _scale(self) -> Tensor:
        """Return floats per code: (rows, 1), or (rows, ROW) if a row has several scales."""
        raw = [weight.raw_scale for weight in self._weights]
        if self._rows_per_scale is None:
            spread = torch.zeros(self._shape, dtype=raw[0].dtype, device=self.group.device)
            for view, weight in zip(self._views(spread), self._weights, strict=True):
                view.copy_(weight.scale)
            return positive(spread)
        table = positive(torch.cat([scale.reshape(-1) for scale in raw]))
        rows = table.repeat_interleave(self._rows_per_scale, output_size=self._shape[0])
        return rows.view(-1, 1)


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


class _Scratch:
    """Memory for one gathered block of a group at a time."""

    def __init__(self, group: WeightGroup) -> None:
        zero = torch.zeros((), device=group.device)
        first = torch.full_like(zero, group.grid.quant_min)
        self.still = int(weight_history.pack(zero, weight_history.STILL, False, group.layout))
        # the flag is the highest bit of a record: from this number on, records are frozen
        self.frozen = int(weight_history.pack(first, weight_history.STILL, True, group.layout))
        self.latents = torch.zeros(0, dtype=group.dtype, device=group.device)
        self.records = torch.zeros(0, dtype=group.layout.dtype, device=group.device)

    def reserve(self, entries: int) -> None:
        """Allocate memory for a block with this number of entries."""
        if entries > len(self.latents):
            self.latents = self.latents.new_zeros(entries)
            self.records = self.records.new_zeros(entries)


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
