"""Counts of weights by their frequency, over the parts of all processes.

The edges are fixed, so processes that hold parts of a weight add up their counts, and all of them
derive the same threshold.
"""

from collections.abc import Container
from typing import NamedTuple

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.oscillation.weight_group import WeightGroup
from quiesce.oscillation.weight_parts import over_parts

LOWEST = 1e-6
"""Lowest frequency that is counted: one oscillation is remembered for 6,900 steps at momentum 0.001
and for 200 at 0.05."""

CUT = 1024
"""`EDGES[CUT]` is the frequency above which a weight oscillates."""

EDGES = torch.cat(
    [
        LOWEST * torch.logspace(0, 1, CUT + 1, base=OSCILLATING / LOWEST, dtype=torch.float64)[:-1],
        OSCILLATING * torch.logspace(0, 1, CUT + 1, base=1 / OSCILLATING, dtype=torch.float64),
    ]
)
"""Frequencies between which weights are counted, up to 1: 0.5 % apart, 0.8 % below the cut."""


class FrequencyCounts(NamedTuple):
    """Counts of weights in each layer, on the CPU."""

    names: list[str]
    """Layers, in the order of the rows."""
    free: Tensor
    """Weights that are not frozen, with a frequency above `EDGES[i]` and at most `EDGES[i + 1]`:
    int64 (layers, 2048)."""
    pinned: Tensor
    """The same for frozen weights: int64 (layers, 2048)."""
    frozen: Tensor
    """Frozen weights: int64 (layers,)."""
    sizes: Tensor
    """All weights: int64 (layers,)."""

    @property
    def share(self) -> float:
        """Share of these weights that oscillate, 0 to 1, as the tracker counts it."""
        oscillating = self.free[:, CUT:].sum() + self.pinned[:, CUT:].sum()
        return oscillating.item() / self.sizes.sum().item()

    @property
    def frozen_share(self) -> float:
        """Share of these weights that are frozen, 0 to 1."""
        return self.frozen.sum().item() / self.sizes.sum().item()


@torch.no_grad()
def frequency_counts(tracker: OscillationTracker, names: Container[str]) -> FrequencyCounts:
    """Count the weights of some layers by frequency; synchronises with an accelerator.

    If weights are split, all processes must call this.

    Args:
        tracker: The tracker.
        names: Names of the layers.
    """
    rows: dict[str, Tensor] = {}
    for group in tracker.groups:
        table = _of_group(tracker, group)
        rows |= {w.name: row for w, row in zip(group.weights, table, strict=True)}
    weights = [weight for weight in tracker.weights if weight.name in names]
    table = over_parts(weights, [rows[weight.name] for weight in weights]).cpu().round().long()
    bins = len(EDGES) - 1
    return FrequencyCounts(
        names=[weight.name for weight in weights],
        free=table[:, :bins],
        pinned=table[:, bins : 2 * bins],
        frozen=table[:, -1],
        sizes=torch.tensor([weight.latent.numel() for weight in weights]),
    )


def _of_group(tracker: OscillationTracker, group: WeightGroup) -> Tensor:
    """Return the counts of this process: float64 (layers, free and pinned bins, frozen)."""
    layers, bins = len(group.weights), len(EDGES) - 1
    where = tracker.entries_above(group, LOWEST)
    frequencies = tracker.frequencies_at(group, where).double()
    which = torch.bucketize(frequencies, EDGES.to(frequencies.device)).sub(1).clamp(0, bins - 1)
    held = weight_history.is_frozen(group.records[where], group.layout)
    place = (group.layers_of(where) * 2 + held) * bins + which
    counts = torch.bincount(place, minlength=2 * layers * bins).view(layers, -1)
    return torch.cat([counts, group.count_frozen().view(-1, 1)], 1).double()
