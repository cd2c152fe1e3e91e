"""The weights of many layers side by side in memory, so that one pass serves all of them.

A network has dozens of layers, most of them small: a pass over each by itself spends its time on
calls, not on weights. So latents and history records are moved, once, into one stretch of memory
each. The parameters stay the objects they were, with their values, shapes and strides; only their
storage is elsewhere, as with `flatten_parameters` of torch's recurrent layers. Latents that are
split over processes (`quiesce.parallel.split_weights`) are copied in for each pass and back after.

An arena is a table of rows of `ROW` entries. Every layer begins a row, its last row is filled up
with zeros, and so a layer's scale is one number per row. Entries of a layer lie in the order of its
storage. What else is kept of each weight (frequencies, averages) has the same places.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.fake_quantize import positive
from quiesce.arithmetic.memory_order import outermost_first, storage_order
from quiesce.errors import TrackingError
from quiesce.quantization.quantized_weight import QuantizedWeight

ROW = 64
"""Entries of a row: whole vectors and cache lines on every machine."""

_PART = 2**16  # rows, 4 million entries

Where = Tensor | slice
"""A selection of entries of an arena: a 1-D int64 index, or slice(None) for all."""


def arenas(weights: Sequence[QuantizedWeight]) -> list["Arena"]:
    """Move the weights into as few arenas as can be: one per width, dtype, device and rounding."""
    groups: dict[object, list[QuantizedWeight]] = {}
    for weight in weights:
        latent, split = weight.held, weight.shards and weight.shards.key
        kind = (weight.grid.bits, latent.dtype, latent.device, weight.estimator)
        key = (*kind, _is_spread(weight), split)
        groups.setdefault(key, []).append(weight)
    return [Arena(group) for group in groups.values()]


class Arena:
    """Weights of one grid, one dtype and one device, and the passes over them.

    Args:
        weights: As `arenas` groups them.

    Attributes:
        latents: (rows, ROW), the memory of all latents.
        records: (rows, ROW), the memory of all history records.
        on_cpu: Whether counting and gathering make nobody wait.
        grid: Of every weight.
        layout: Of every record.
    """

    def __init__(self, weights: Sequence[QuantizedWeight]) -> None:
        self.weights = list(weights)
        self.grid, self.layout = weights[0].grid, weights[0].layout
        self._spread = _is_spread(weights[0])
        self._split = weights[0].shards is not None
        held = [weight.held for weight in weights]
        self._shapes = [latent.shape for latent in held]
        self._strides = [latent.stride() for latent in held]
        self.rows = [-(-latent.numel() // ROW) for latent in held]
        self._starts = [row * ROW for row in accumulate(self.rows, initial=0)]
        like = held[0]
        shape = sum(self.rows), ROW
        self.on_cpu = like.device.type == "cpu"
        self.latents = torch.zeros(shape, dtype=like.dtype, device=like.device)
        still = weight_history.pack(
            torch.zeros((), device=like.device), weight_history.STILL, False, self.layout
        )
        self.records = still.repeat(shape)  # what fills up rows has code 0, and keeps it
        self._row_counts = torch.tensor(self.rows, device=like.device)
        self._row_ends = self._row_counts.cumsum(0)
        scales = [1 if w.raw_scale.numel() == 1 else w.raw_scale.numel() for w in weights]
        self._rows_per_scale = torch.cat(
            [torch.full((n,), rows // max(n, 1)) for n, rows in zip(scales, self.rows, strict=True)]
        ).to(like.device)
        self._places: list[tuple[int, int]] = []
        self.gather()

    def __len__(self) -> int:
        """Entries, those that fill up rows among them."""
        return self.latents.numel()

    def layer(self, values: Tensor, index: int) -> Tensor:
        """The part of layer `index`, in the shape and strides of its latent: a view.

        Args:
            values: Of the arena's entries, contiguous.
            index: Position in `weights`.
        """
        shape, strides = self._shapes[index], self._strides[index]
        return values.detach().as_strided(shape, strides, self._starts[index])

    @torch.no_grad()
    def gather(self) -> None:
        """Take in weights whose memory is elsewhere: all at first, later what was moved since.

        A checkpoint loaded with `assign=True`, for example, brings tensors of its own.

        Raises:
            TrackingError: A weight has changed its memory format, dtype or device.
        """
        places = [self._place(weight) for weight in self.weights]
        if places == self._places and not self._split:
            return
        for i, weight in enumerate(self.weights):
            self._check(i)
            latent, records = self.layer(self.latents, i), self.layer(self.records, i)
            if self._split:
                latent.copy_(weight.held)
            if not self._places or places[i] != self._places[i]:
                latent.copy_(weight.held)
                records.copy_(weight.history)
                weight.move(latent, records)
        self._places = [self._place(weight) for weight in self.weights]

    def _check(self, index: int) -> None:
        weight, home = self.weights[index], self.latents
        latent = weight.held
        if latent.stride() != self._strides[index]:
            raise TrackingError(
                f"{weight.name}: the weight has changed its memory format since the tracker was "
                "made; move the model with .to(memory_format=...) first, then make the tracker"
            )
        if (latent.dtype, latent.device) != (home.dtype, home.device):
            raise TrackingError(
                f"{weight.name}: the weight was {home.dtype} on {home.device} when the tracker was "
                f"made and is {latent.dtype} on {latent.device} now; move the model first, then "
                "make the tracker"
            )

    @staticmethod
    def _place(weight: QuantizedWeight) -> tuple[int, int]:
        # who is split is copied in every time; its memory may be anywhere
        latent = weight.latent.data_ptr() if weight.shards is None else 0
        return latent, weight.history.data_ptr()

    @torch.no_grad()
    def read(self) -> weight_passes.Operands:
        """All entries as they are now, wherever they have been meanwhile: (rows, ROW)."""
        self.gather()
        first = self.weights[0]
        return weight_passes.Operands(
            self.latents, self._scale(), first.limits, self.records, first.estimator
        )

    def parts(self, now: weight_passes.Operands) -> Iterator[weight_passes.Operands]:
        """What `read` gave in pieces of at most `_PART` rows each: views, to be edited in place."""
        pieces = (values.split(_PART) for values in (now.latent, now.scale, now.records))
        for latent, scale, records in zip(*pieces, strict=True):
            yield now._replace(latent=latent, scale=scale, records=records)

    def select(self, now: weight_passes.Operands, where: Where) -> weight_passes.Operands:
        """Some entries of what `read` gave, for the functions of `passes`: (selected,)."""
        scale = now.scale
        if isinstance(where, slice) or self._spread:
            scale = scale.expand(-1, ROW).reshape(-1)[where]
        else:
            scale = scale.view(-1)[where // ROW]
        latents, records = self.latents.view(-1)[where], self.records.view(-1)[where]
        return now._replace(latent=latents, scale=scale, records=records)

    @torch.no_grad()
    def run(
        self, function: weight_passes.Pass, now: weight_passes.Operands, *args: Tensor | None
    ) -> Tensor:
        """A pass over all entries, as one kernel where kernels are compiled."""
        result = self.weights[0].kernels.over_weights(function, now, *args)
        if function in (weight_passes.settle, weight_passes.track):
            self._give_back()
        return result

    @torch.no_grad()
    def freeze(self, now: weight_passes.Operands, where: Tensor, codes: Tensor) -> None:
        """Pin codes for good and set the latents to them; what is frozen already stays.

        Args:
            now: What `read` gave.
            where: 1-D int64 index, or bool mask of all entries.
            codes: Integral values on the grid, one per index or entry.
        """
        latents, records = self.latents.view(-1), self.records.view(-1)
        if where.dtype == torch.bool:
            pinned = weight_history.freeze(records, codes, self.layout)
            records.copy_(torch.where(where, pinned, records))
            self.run(weight_passes.settle, now)
        else:
            records[where] = weight_history.freeze(records[where], codes, self.layout)
            latents[where] = weight_passes.quantized(self.select(now, where)).to(latents.dtype)
            self._give_back()

    def layers_of(self, where: Tensor) -> Tensor:
        """Positions in `weights` of the layers of some entries: int64, the shape of `where`."""
        return torch.bucketize(where // ROW, self._row_ends, right=True)

    def count(self, where: Tensor) -> Tensor:
        """How many entries of an index belong to each layer: int64 (layers,)."""
        return torch.bincount(self.layers_of(where), minlength=len(self.weights))

    def per_layer(self, row_values: Tensor) -> Tensor:
        """Sums over the rows of each layer: floats (rows,) to (layers,)."""
        # unsafe: lengths are not checked, for which an accelerator would be waited for
        return torch.segment_reduce(row_values, "sum", lengths=self._row_counts, unsafe=True)

    def per_row(self, layer_values: Sequence[float]) -> Tensor:
        """One number per layer as one per row: float32 (rows, 1)."""
        device = self.latents.device
        values = torch.tensor(layer_values, dtype=torch.float32, device=device)
        return values.repeat_interleave(self._row_counts, output_size=sum(self.rows)).view(-1, 1)

    def every(self, most: int | None) -> tuple[Tensor, list[int]]:
        """An evenly spread sample of `most` entries (or somewhat more) of each layer, or all.

        Returns:
            Index, int64 (sampled,), layer by layer, and how many are of each layer.
        """
        parts = []
        for shape, start in zip(self._shapes, self._starts, strict=False):
            size = shape.numel()
            step = 1 if most is None else max(1, size // most)
            parts.append(torch.arange(start, start + size, step, device=self.latents.device))
        return torch.cat(parts), [len(part) for part in parts]

    def _give_back(self) -> None:
        """Put latents that a pass has set where those who split them read them."""
        if self._split:
            for i, weight in enumerate(self.weights):
                weight.held.copy_(self.layer(self.latents, i))

    def _scale(self) -> Tensor:
        """Floats per code: (rows, 1), or (rows, ROW) where channels and rows do not agree."""
        raw = [weight.raw_scale for weight in self.weights]
        if self._spread:
            spread = torch.zeros(len(self), dtype=raw[0].dtype, device=self.latents.device)
            for i, scale in enumerate(raw):
                self.layer(spread, i).copy_(scale)
            return positive(spread).view(-1, ROW)
        table = positive(torch.cat([scale.reshape(-1) for scale in raw]))
        rows = table.repeat_interleave(self._rows_per_scale, output_size=sum(self.rows))
        return rows.view(-1, 1)


def _is_spread(weight: QuantizedWeight) -> bool:
    """Whether some row of this weight would hold entries of different scales."""
    scale, latent = weight.raw_scale, weight.held
    if scale.numel() <= 1:
        return False
    by_channel = outermost_first(storage_order(latent)) and len(scale) == scale.numel()
    return not by_channel or (latent.numel() // len(scale)) % ROW != 0
