"""Weights that share a grid, read in blocks, so that a few passes over memory serve all layers.

A network has dozens of layers, most of them small. A pass over each by itself spends its time on
calls, not on weights. But every parameter and every history record must stay in its own memory,
because other people's code (savers, optimizers, FSDP2) relies on that. So a pass runs on blocks:

- a large layer is read where it is, as one block or several;
- small layers are gathered into a scratch buffer that fits the cache; the pass runs on the buffer,
  and what it changed is copied back.

A group also defines a row of memory with a place, an "entry", for every weight of its layers.
Whoever keeps numbers per weight (the tracker: frequencies and averages) keeps them in this order.
Each layer begins at a multiple of `ROW`; the gaps are padding. Entries of a layer lie in the order
of its storage, so that a channels-last weight is not permuted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.fake_quantize import positive
from quiesce.arithmetic.memory_order import flatten, outermost_first, storage_order
from quiesce.errors import TrackingError
from quiesce.quantization.quantized_weight import QuantizedWeight

ROW = 64
"""Entries of a row: a whole number of vector registers and cache lines on every machine."""

_GATHERED = {"cpu": 2**18}
"""Largest gathered block by kind of device, in entries. On a CPU its latents, 1 MB, fit the cache.

An accelerator gains from few kernel launches instead, see `_LARGEST`.
"""

_LARGEST = 2**22
"""Entries of the largest block, so that the temporaries of a pass stay small."""

Where = Tensor | slice
"""A selection of entries of a group: a rising 1-D int64 index, or slice(None) for all of them."""


def weight_groups(weights: Sequence[QuantizedWeight]) -> list[WeightGroup]:
    """Put weights that one kernel can serve into one group.

    They have the same bits, dtype, device and estimator, and are split over processes in one way.
    """
    groups: dict[object, list[QuantizedWeight]] = {}
    for weight in weights:
        held, split = weight.held, weight.shards and weight.shards.key
        kind = (weight.grid.bits, held.dtype, held.device, weight.estimator)
        groups.setdefault((*kind, _scales_share_rows(weight), split), []).append(weight)
    return [WeightGroup(group) for group in groups.values()]


class WeightGroup:
    """Weights of one grid, one dtype and one device, and the blocks that passes run on.

    Args:
        weights: As `weight_groups` puts them together.

    Attributes:
        weights: The same.
        grid: The grid of every weight.
        layout: The layout of every history record.
        device: The device of every weight.
        on_cpu: Whether reading a number from a tensor waits for nobody.
        sizes: Weights of each layer that this process holds: int64 (layers,).
        blocks: Every weight is in one block; in the order of the entries.
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
        self._ends = (self._row_counts * ROW).cumsum(0)
        self.starts = [0, *self._ends.tolist()]
        self.blocks = self._make_blocks()

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

    def select(self, where: Tensor) -> Entries:
        """Read some entries.

        Args:
            where: Rising 1-D int64 index.
        """
        return Entries(self, where)

    def sample(self, most: int | None) -> tuple[weight_passes.Operands, list[int]]:
        """Read an evenly spread sample of `most` weights (or somewhat more) of each layer, or all.

        Returns:
            The sample, every field (sampled,), layer by layer; and how many are of each layer.
        """
        picks = []
        for weight in self.weights:
            size = weight.held.numel()
            step = 1 if most is None else max(1, size // most)
            picks.append((weight, torch.arange(0, size, step, device=self.device)))
        return _read_at(picks), [len(places) for _, places in picks]

    def layers_of(self, where: Tensor) -> Tensor:
        """Positions in `weights` of the layers of some entries: int64, the shape of `where`."""
        return torch.bucketize(where, self._ends, right=True)

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
            parts = flatten(weight.history, storage_order(weight.held)).split(_LARGEST)
            flags = [weight_history.is_frozen(part, self.layout).sum() for part in parts]
            counts.append(torch.stack(flags).sum())
        return torch.stack(counts)

    def _make_blocks(self) -> list[Block]:
        most = _GATHERED.get(self.device.type, _LARGEST)
        blocks: list[Block] = []
        small: list[int] = []
        scratch = _Scratch(self)

        def gather() -> None:
            if small:
                blocks.append(GatheredBlock(self, small.copy(), scratch))
                small.clear()

        for i, (begin, end) in enumerate(pairwise(self.starts)):
            if end - begin >= most and _has_rows(self.weights[i]):
                gather()
                blocks.extend(_layer_blocks(self, i))
                continue
            if small and end - self.starts[small[0]] > most:
                gather()
            small.append(i)
        gather()
        return blocks


class Block:
    """Some weights of a group as a table, which a pass can change in place.

    Args:
        group: The group.
        start: The first entry.
        shape: Rows and columns; rows times columns entries belong to the block.

    Attributes:
        group: The group.
        start: The first entry.
        layers: Positions in `group.weights` of the layers that have weights here.
    """

    layers: list[int]

    def __init__(self, group: WeightGroup, start: int, shape: tuple[int, int]) -> None:
        self.group, self.start, self._shape = group, start, shape

    def __len__(self) -> int:
        return self._shape[0] * self._shape[1]

    def of(self, values: Tensor) -> Tensor:
        """Return what numbers of all entries say of this block: (rows, columns), a view."""
        return values[self.start : self.start + len(self)].view(self._shape)

    def read(self) -> weight_passes.Operands:
        """Return the weights as they are now: (rows, columns); valid until another block reads."""
        raise NotImplementedError

    def write_back(self) -> None:
        """Give the layers what a pass has changed in what `read` returned."""
        raise NotImplementedError

    def write_back_pinned(self) -> None:
        """The same after `settle` on a CPU, which changes only the latents of frozen weights."""
        raise NotImplementedError

    def per_row(self, layer_values: Sequence[float]) -> Tensor:
        """Return one number for each layer of the group as one for each row: float32 (rows, 1)."""
        raise NotImplementedError

    def per_layer(self, row_values: Tensor) -> Tensor:
        """Return sums over the rows of each layer of the group: (..., rows) to (..., layers)."""
        raise NotImplementedError

    def layer_parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Split a table of this block by layer.

        Yields:
            The position in `group.weights`, and numbers of its weights here: 1-D, a view.
        """
        raise NotImplementedError

    def run(
        self, function: weight_passes.Pass, now: weight_passes.Operands, *args: Tensor | None
    ) -> Tensor:
        """Run a pass, as one kernel where kernels are compiled.

        Args:
            function: The pass.
            now: What `read` returned.
            args: What else the pass takes.
        """
        return self.group.weights[0].kernels.over_weights(function, now, *args)

    @torch.no_grad()
    def freeze(self, now: weight_passes.Operands, codes: Tensor, where: Tensor) -> None:
        """Pin codes for good and set the latents to them; a frozen weight stays as it is.

        Args:
            now: What `read` returned.
            codes: Integral values on the grid: (rows, columns).
            where: Which weights to freeze: bool (rows, columns).
        """
        pinned = weight_history.freeze(now.records, codes, self.group.layout)
        now.records.copy_(torch.where(where, pinned, now.records))
        self.run(weight_passes.settle, now)
        self.write_back()


class LayerBlock(Block):
    """Rows of one large layer, read where they are.

    Args:
        group: The group.
        index: Position of the layer in `group.weights`.
        rows: Which rows of the layer, if dimension 0 in storage order makes the rows.
    """

    def __init__(self, group: WeightGroup, index: int, rows: range) -> None:
        held = group.weights[index].held
        self._order = storage_order(held)
        columns = held.numel() // held.shape[self._order[0] if self._order else 0]
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
        """Return zeros, and the sum over all rows for this layer."""
        sums = row_values.new_zeros(*row_values.shape[:-1], len(self.group.weights))
        sums[..., self._index] = row_values.sum(-1)
        return sums

    def layer_parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the whole block."""
        yield self._index, values.view(-1)


class GatheredBlock(Block):
    """Small layers side by side in a scratch buffer, in rows of `ROW`.

    Args:
        group: The group.
        indices: Neighbours in `group.weights`.
        scratch: The buffer.
    """

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
            scales = weight.raw_scale.numel()  # 0 where a process holds no part of a split weight
            repeats += [count // max(1, scales)] * scales
        shared = _scales_share_rows(self._weights[0])
        self._rows_per_scale = None if shared else torch.tensor(repeats, device=group.device)
        scratch.reserve(len(self))
        self._kept: tuple[Tensor, Tensor, list[Tensor]] | None = None

    def read(self) -> weight_passes.Operands:
        """Gather the layers."""
        latents, records, views = self._buffers()
        if self._padded:  # another block has used the buffer: padding has code 0 and keeps it
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
        """Return the number of its layer for every row."""
        values = torch.tensor([layer_values[i] for i in self.layers], device=self.group.device)
        values = values.float().repeat_interleave(self._row_counts, output_size=self._shape[0])
        return values.view(-1, 1)

    def per_layer(self, row_values: Tensor) -> Tensor:
        """Return zeros, and sums over rows for these layers."""
        sums = row_values.new_zeros(*row_values.shape[:-1], len(self.group.weights))
        lengths = self._row_counts.expand(*row_values.shape[:-1], -1)
        # unsafe: lengths are not checked, for which the host would wait for an accelerator
        sums[..., self.layers[0] : self.layers[-1] + 1] = torch.segment_reduce(
            row_values, "sum", lengths=lengths, axis=row_values.dim() - 1, unsafe=True
        )
        return sums

    def layer_parts(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield layer by layer."""
        flat = values.view(-1)
        for i, (begin, size) in zip(self.layers, self._bounds, strict=True):
            yield i, flat[begin : begin + size]

    def _layers(self) -> list[Tensor]:
        """Latents, then records, of all layers."""
        return [*(weight.held for weight in self._weights), *(w.history for w in self._weights)]

    def _buffers(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Latents and records in the scratch buffer, and the places of `_layers` in them."""
        if self._kept is None:
            scratch, size = self._scratch, len(self)
            latents = scratch.latents[:size].view(self._shape)
            records = scratch.records[:size].view(self._shape)
            self._kept = latents, records, [*self._views(latents), *self._views(records)]
        return self._kept

    def _views(self, table: Tensor) -> Iterator[Tensor]:
        """The places of the layers in a table, in the shapes and strides of their latents."""
        offset = table.storage_offset()
        for weight, (begin, _) in zip(self._weights, self._bounds, strict=True):
            held = weight.held
            yield table.as_strided(held.shape, held.stride(), offset + begin)

    def _scale(self) -> Tensor:
        """Floats per code: (rows, 1), or (rows, ROW) where a row has entries of several scales."""
        raw = [weight.raw_scale for weight in self._weights]
        if self._rows_per_scale is None:
            spread = torch.zeros(self._shape, dtype=raw[0].dtype, device=self.group.device)
            for view, scale in zip(self._views(spread), raw, strict=True):
                view.copy_(scale)
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
        """Have room for a block of so many entries."""
        if entries > len(self.latents):
            self.latents = self.latents.new_zeros(entries)
            self.records = self.records.new_zeros(entries)


class Entries:
    """Some weights of a group, read when this is made.

    Args:
        group: The group.
        where: Rising 1-D int64 index of entries.
        now: The weights, if they have been read already.

    Attributes:
        group: The group.
        where: The index.
        now: The weights: every field (selected,).
    """

    def __init__(
        self, group: WeightGroup, where: Tensor, now: weight_passes.Operands | None = None
    ) -> None:
        self.group, self.where = group, where
        ends = torch.searchsorted(where, group._ends).tolist()
        self._picks = [
            (group.weights[i], where[begin:end] - group.starts[i])
            for i, (begin, end) in enumerate(pairwise([0, *ends]))
            if begin != end
        ]
        self.now = now or _read_at(self._picks)

    def of(self, values: Tensor) -> Tensor:
        """Return what numbers of all entries say of these: (selected,)."""
        return values[self.where]

    @torch.no_grad()
    def freeze(self, codes: Tensor) -> None:
        """Pin codes for good and set the latents to them; a frozen weight stays as it is.

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
        """Give the layers new records: (selected,)."""
        for (weight, places), part in zip(self._picks, self._split(records), strict=True):
            flatten(weight.history, storage_order(weight.held))[places] = part

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        return values.split([len(places) for _, places in self._picks])


def _read_at(picks: Sequence[tuple[QuantizedWeight, Tensor]]) -> weight_passes.Operands:
    """Read weights at places in the storage order of their layers: every field (selected,)."""
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
    if not len(places):  # perhaps another process holds all of a split weight
        return scale.reshape(-1)[:0]
    if scale.numel() == 1:
        return scale.reshape(1).expand(len(places))
    if _scales_by_row(weight):
        return scale.reshape(-1)[places // (held.numel() // scale.numel())]
    return flatten(scale.expand_as(held), storage_order(held))[places]


def _layer_blocks(group: WeightGroup, index: int) -> Iterator[LayerBlock]:
    held = group.weights[index].held
    order = storage_order(held)
    rows = held.shape[order[0] if order else 0]
    step = max(2, _LARGEST * rows // held.numel())
    for first in range(0, rows, step):
        yield LayerBlock(group, index, range(first, min(rows, first + step)))


def _has_rows(weight: QuantizedWeight) -> bool:
    """Whether a large layer is a table of at least two rows, each with one scale."""
    held, order = weight.held, storage_order(weight.held)
    rows = held.shape[order[0] if order else 0] if held.dim() else 1
    # sums over a row are float32, which counts exactly up to 2^24
    fits = rows > 1 and held.numel() // rows < 2**24
    return fits and (weight.raw_scale.numel() <= 1 or _scales_by_row(weight))


def _scales_by_row(weight: QuantizedWeight) -> bool:
    """Whether weights of one scale lie side by side in memory."""
    scale = weight.raw_scale
    return outermost_first(storage_order(weight.held)) and len(scale) == scale.numel()


def _scales_share_rows(weight: QuantizedWeight) -> bool:
    """Whether some row of `ROW` entries would hold weights of different scales."""
    scale, held = weight.raw_scale, weight.held
    if scale.numel() <= 1:
        return False
    return not _scales_by_row(weight) or (held.numel() // len(scale)) % ROW != 0
