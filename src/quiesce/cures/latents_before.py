"""Copies of latent weights from before an optimizer step, to change the step afterwards."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quiesce.oscillation.tracker import OscillationTracker
from quiesce.oscillation.weight_blocks import Block
from quiesce.oscillation.weight_group import WeightGroup


class LatentsBefore:
    """Copies of the latents of some groups, in the order of their entries.

    Args:
        tracker: The tracker of the groups.
        groups: The groups.
    """

    def __init__(self, tracker: OscillationTracker, groups: Sequence[WeightGroup]) -> None:
        self._parts = [
            (
                tracker.blocks(group),
                torch.zeros(len(group), dtype=group.dtype, device=group.device),
            )
            for group in groups
        ]

    @torch.no_grad()
    def take(self) -> None:
        """Copy the latents."""
        for block, before in self.blocks():
            before.copy_(block.read().latent)

    def blocks(self) -> Iterator[tuple[Block, Tensor]]:
        """Yield the blocks of all groups, and the copies of their latents: (rows, columns)."""
        for blocks, values in self._parts:
            for block in blocks:
                yield block, block.of(values)
