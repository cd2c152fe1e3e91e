"""Bin regularization: penalties that pull every bin of weights together and onto its grid point.

A bin i is the set of weights of a layer with code i, and q_i its grid point:

    BR    strength * sum over bins of (mean of the bin - q_i)^2 + variance of the bin
    OBR   strength * (mean over the layer of (w - q)^2 + sum over bins of the variance of the bin)

summed over layers. A mean of squares is a squared mean plus a variance, so BR is dampening in which
every bin counts alike, whatever the number of its weights. The variance is unbiased, and 0 for one
weight. As in dampening, q is a constant, and a weight outside the range counts as if it were at the
end of the grid, and gets no gradient.

With several scales (per channel), bins are of the whole layer, of distances from grid points.

Sources: Han, Li, Liu, Tian, Shan, Improving Low-Precision Network Quantization via Bin
Regularization, ICCV 2021. Huang, Shen, Dong, Cheng, Quantization Variation, TMLR 2024,
arXiv:2307.00331.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from quiesce.arithmetic import bin_passes, weight_passes
from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.selection import Selection
from quiesce.cures.weight_penalty import on_weights
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.oscillation.weight_blocks import Block
from quiesce.oscillation.weight_group import WeightGroup
from quiesce.oscillation.weight_parts import over_parts
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike


class _Form(NamedTuple):
    """Factors of the three terms of a layer."""

    of_squares: float
    """Mean over the layer of (w - q)^2."""
    of_means: float
    """Sum over bins of (mean - q)^2."""
    of_variances: float
    """Sum over bins of the variance."""


class BinRegularization(Cure):
    """Adds BR to the loss.

    Args:
        strength: A number, or a schedule of the optimizer step; 0 or None adds nothing. Published:
            training without it first, then a constant. Values from 0.1 to 10 are in use.
        max_bits: Layers with more bits are left out.

    Raises:
        ValueError: `max_bits` is out of range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.BinRegularization(0.1)])
        >>> loss = layer(x).sum() + control.penalty()
        >>> loss.backward()
        >>> optimizer.step()
    """

    _form = _Form(of_squares=0.0, of_means=1.0, of_variances=1.0)

    def __init__(self, strength: float | ScheduleLike, max_bits: int = 4) -> None:
        self.strength = as_schedule(strength)
        self._selection = Selection(max_bits)
        self._ready = False

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the layers with at most `max_bits`.

        Raises:
            TrackingError: There is none.
        """
        self._selection.attach(weights, tracker)
        self._selection.refuse_none(type(self).__name__)
        self._ready = False

    def penalty(self, step: int) -> Tensor | None:
        """Return the penalty at this step's strength: a scalar, or None if the strength is 0.

        If weights are split over processes, all processes must call this.

        Raises:
            TrackingError: The cure has not been passed to a `Control`.
        """
        tracker, strength = self._selection.tracker, self.strength(step)
        if not strength and self._ready:
            return None
        self._ready = True  # the first call always runs, to compile the passes
        bins = [_GroupBins(tracker, group, self._selection) for group in self._selection.groups]
        latents = [w.differentiable for group in self._selection.groups for w in group.weights]
        return on_weights(_Pull(bins, self._form, strength or 0.0, self._totals), latents)

    def level(self, step: int) -> float | None:
        """Return the strength."""
        return self.strength(step) or None

    def _totals(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Add up sums of bins over the parts of split weights: (3, layers, levels) per group."""
        groups = self._selection.groups
        if not any(weight.shards for group in groups for weight in group.weights):
            return list(sums)
        parts = {
            weight.name: table[:, i].flatten()
            for group, table in zip(groups, sums, strict=True)
            for i, weight in enumerate(group.weights)
        }
        weights = [weight for weight in self._selection.tracker.weights if weight.name in parts]
        longest = max(len(part) for part in parts.values())
        rows = [
            pad(parts[weight.name], (0, longest - len(parts[weight.name]))) for weight in weights
        ]
        whole = dict(zip([w.name for w in weights], over_parts(weights, rows), strict=True))
        return [
            torch.stack(
                [
                    whole[w.name][: table[:, 0].numel()].view(table[:, 0].shape)
                    for w in group.weights
                ],
                1,
            )
            for group, table in zip(groups, sums, strict=True)
        ]


class OBR(BinRegularization):
    """Adds OBR to the loss.

    Args:
        strength: A number, or a schedule of the optimizer step; 0 or None adds nothing. Published:
            `quiesce.cosine(0, 0.01, total)`.
        max_bits: Layers with more bits are left out.

    Raises:
        ValueError: `max_bits` is out of range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.OBR(0.01)])
        >>> loss = layer(x).sum() + control.penalty()
        >>> loss.backward()
        >>> optimizer.step()
    """

    _form = _Form(of_squares=1.0, of_means=0.0, of_variances=1.0)


class _GroupBins:
    """The bins of a group, numbered layer by layer."""

    def __init__(
        self, tracker: OscillationTracker, group: WeightGroup, selection: Selection
    ) -> None:
        self.group = group
        self.blocks = tracker.blocks(group)
        self.levels = group.grid.quant_max - group.grid.quant_min + 1
        layers = range(len(group.weights))
        starts = [float(self.levels * i) for i in layers]
        self.firsts = [block.per_row(starts).to(torch.int64) for block in self.blocks]
        sizes = [w.latent.numel() for w in group.weights]
        self.sizes = torch.tensor(sizes, dtype=torch.float64, device=group.device)
        self.allowed = torch.tensor(selection.allowed(group), device=group.device)

    def sums(self) -> Tensor:
        """Return count, sum and sum of squares of residuals of each bin: (3, layers, levels)."""
        count = len(self.group.weights)
        sums = torch.zeros(3, count * self.levels, dtype=torch.float64, device=self.group.device)
        self.group.refresh()
        for block, first in zip(self.blocks, self.firsts, strict=True):
            now = block.read()
            which = block.run(bin_passes.bins, now, first).view(-1)
            off = block.run(weight_passes.residual, now).view(-1).double()
            for row, values in zip(sums, (torch.ones_like(off), off, off.square()), strict=True):
                row.index_add_(0, which, values)
        sums = sums.view(3, count, self.levels)
        # gathered layers are padded, with code 0 and distance 0
        held = torch.tensor([weight.held.numel() for weight in self.group.weights]).to(sums)
        sums[0, :, -self.group.grid.quant_min] -= sums[0].sum(1) - held
        return sums


class _Pull:
    """The penalty and its gradient, which is linear in the residual in every bin."""

    def __init__(
        self,
        bins: list[_GroupBins],
        form: _Form,
        strength: float,
        totals: Callable[[Sequence[Tensor]], list[Tensor]],
    ) -> None:
        self._bins, self._form, self._strength = bins, form, strength
        self._totals = totals
        self.blocks: list[Block] = [block for each in bins for block in each.blocks]
        self._tables: list[tuple[Tensor, Tensor, Tensor]] = []

    def value(self) -> Tensor:
        value = torch.zeros((), dtype=torch.float64, device=self._bins[0].group.device)
        sums = self._totals([each.sums() for each in self._bins])
        for each, (count, total, squares) in zip(self._bins, sums, strict=True):
            wide = torch.promote_types(each.group.dtype, torch.float32)
            some, more = count.clamp_min(1), (count - 1).clamp_min(1)
            mean = total / some
            variance = torch.where(count > 1, (squares - total * mean).clamp_min(0) / more, 0.0)
            terms = self._form.of_means * mean.square() + self._form.of_variances * variance
            of_layer = terms.sum(1) + self._form.of_squares * squares.sum(1) / each.sizes
            value += torch.where(each.allowed, of_layer, 0.0).sum()
            slope = 2 * self._form.of_squares / each.sizes[:, None]
            together = torch.where(count > 1, 2 * self._form.of_variances / more, 0.0)
            shift = mean * (2 * self._form.of_means / some - together)
            slope, shift = (
                torch.where(each.allowed[:, None], part, 0.0).to(wide).flatten()
                for part in (slope + together, shift)
            )
            self._tables += [(first, slope, shift) for first in each.firsts]
        return (value * self._strength).to(self._bins[0].group.dtype)

    def gradient(self, i: int, now: weight_passes.Operands, upstream: Tensor, out: Tensor) -> None:
        upstream = upstream * self._strength
        self.blocks[i].run(bin_passes.bin_gradient, now, *self._tables[i], upstream, out)
