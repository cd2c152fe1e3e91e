"""Freezing of all weights whose frequency is above a threshold, for the cures that freeze."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import weight_passes
from quiesce.cures.selection import Selection
from quiesce.oscillation.selected_weights import SelectedWeights
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.oscillation.weight_group import WeightGroup
from quiesce.quantization.quantized_weight import QuantizedWeight


class Freezer(Selection):
    """Freezes weights with at most `max_bits`; locked weights are left as they are.

    Args:
        max_bits: Weights with more bits are never frozen.
        averaged: Freeze at the rounded average of codes, instead of the current code.

    Raises:
        ValueError: `max_bits` is out of range.
    """

    def __init__(self, max_bits: int, *, averaged: bool = True) -> None:
        super().__init__(max_bits)
        self.averaged = averaged

    def attach(
        self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker
    ) -> list[QuantizedWeight]:
        """Select from `weights`, and make the tracker follow their averages of codes."""
        chosen = super().attach(weights, tracker)
        if self.averaged:
            tracker.follow_average(chosen)
        return chosen

    def freeze_above(
        self,
        threshold: float | Mapping[str, float],
        *,
        up_to: float = math.inf,
        fresh_only: bool = False,
        admit: Callable[[SelectedWeights], None] = lambda chosen: None,
    ) -> None:
        """Freeze the weights whose frequency is above a threshold.

        Args:
            threshold: A frequency, or one for each layer by name; other layers are left out.
            up_to: Weights with a higher frequency than this are left out too.
            fresh_only: See `OscillationTracker.entries_above`.
            admit: Called with weights on a CPU before they are frozen; may raise an error.
        """
        _ = self.tracker  # raises an error without one
        for group in self.groups:
            levels = [
                math.inf if not allowed else _of(threshold, weight.name)
                for weight, allowed in zip(group.weights, self.allowed(group), strict=True)
            ]
            if min(levels) == math.inf:
                continue
            for weight, level in zip(group.weights, levels, strict=True):
                if level < math.inf:
                    weight.hold_grid()
            if not group.on_cpu:
                self._freeze_blocks(group, levels, up_to)
            elif not self._freeze_entries(group, levels, up_to, fresh_only, admit):
                continue
            group.write_back()

    def _freeze_entries(
        self,
        group: WeightGroup,
        levels: list[float],
        up_to: float,
        fresh_only: bool,
        admit: Callable[[SelectedWeights], None],
    ) -> bool:
        """Freeze on a CPU, where only the few weights above the threshold need to be read.

        Returns:
            Whether there were any.
        """
        where = self.tracker.entries_above(group, min(levels), fresh_only=fresh_only)
        if max(levels) != min(levels):
            limits = torch.tensor(levels)[group.layers_of(where)]
            where = where[self.tracker.frequencies_at(group, where) > limits]
        if up_to < math.inf:
            where = where[self.tracker.frequencies_at(group, where) <= up_to]
        if not len(where):
            return False
        group.refresh()
        chosen = SelectedWeights(group, where)
        admit(chosen)
        if self.averaged:
            codes = _rounded(group, self.tracker.average_before(chosen, chosen.records))
        else:
            codes = weight_passes.emitted(chosen.read())
        chosen.freeze(codes)
        return True

    def _freeze_blocks(self, group: WeightGroup, levels: list[float], up_to: float) -> None:
        """Freeze on an accelerator, with masks: an index would synchronise with the host."""
        group.refresh()
        for block in self.tracker.blocks(group):
            now, limit = block.read(), min(levels)
            above = self.tracker.above(block, limit)
            if max(levels) != limit:
                above = self.tracker.above(block, block.per_row(levels))
            if up_to < math.inf:
                above &= ~self.tracker.above(block, up_to)
            codes = weight_passes.emitted(now)
            if self.averaged:
                codes = _rounded(group, self.tracker.average_before(block, now.records))
            block.freeze(now, codes, above)


def _of(threshold: float | Mapping[str, float], name: str) -> float:
    return threshold.get(name, math.inf) if isinstance(threshold, Mapping) else threshold


def _rounded(group: WeightGroup, averages: Tensor) -> Tensor:
    return torch.round(averages).clamp(group.grid.quant_min, group.grid.quant_max)
