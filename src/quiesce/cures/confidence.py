"""Confidence-guided annealing (CGA): at the end of training, only weights at a threshold learn.

    before every step, with u = w/s:
        a weight with | |u - round(u)| - 1/2 | > boundary_range keeps its latent weight

A weight that leaves the boundary range stops at once, on the code that it has; those inside go on
until they leave it. An oscillating weight crosses the range with every update if its updates are
larger, and so stops within a few steps; the level on which it stops is left to chance.

Source: Liu, Liu, Cheng, Oscillation-free Quantization for Low-bit Vision Transformers (OFQ), ICML
2023, arXiv:2302.02210. There it is a training of its own after quantization-aware training, and
scales do not learn.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import update_passes
from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.kept_numbers import copied_latents
from quiesce.cures.learning_rates import LearningRate
from quiesce.cures.selection import Selection, refuse_copies
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike


class CGA(Cure):
    """Undoes the updates of all weights but those at a threshold.

    Biases, batch norm and scales go on learning. During a step there is a copy of the latent
    weights, 4 bytes each.

    Args:
        boundary_range: Largest distance from a threshold at which a weight learns, in grid steps,
            above 0 and at most 1/2, or a schedule of the optimizer step, which disables the cure by
            returning None or 0. Published: 0.003 to 0.01, best 0.005 and 0.007.
        begin: Optimizer steps before the cure, 0 or more; published, the whole training: the cure
            has 15 to 30 epochs of its own.
        max_bits: Weights with more bits learn.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.CGA(0.005)])
        >>> before = layer.weight.detach().clone()
        >>> layer(x).sum().backward()
        >>> optimizer.step()
        >>> (layer.weight == before).float().mean().item() > 0.9
        True
    """

    def __init__(
        self, boundary_range: float | ScheduleLike = 0.005, begin: int = 0, max_bits: int = 4
    ) -> None:
        if not callable(boundary_range) and not 0 < boundary_range <= 0.5:
            raise ValueError(
                f"boundary_range must be above 0 and at most 0.5 grid steps, got {boundary_range}"
            )
        if begin < 0:
            raise ValueError(f"begin must be 0 or more optimizer steps, got {begin}")
        self.boundary_range, self.begin = as_schedule(boundary_range), begin
        self._selection = Selection(max_bits)
        self._before: list[Tensor] = []  # latents of each group, during a step

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the weights with at most `max_bits`.

        Raises:
            TrackingError: There is none, or one belongs to another toolkit.
        """
        chosen = self._selection.attach(weights, tracker)
        self._selection.refuse_none("CGA")
        refuse_copies(chosen, "CGA")
        self._before = []

    @torch.no_grad()
    def before_step(self, step: int, rates: Mapping[str, LearningRate]) -> None:
        """Copy the latents, if the cure is on."""
        _ = self._selection.tracker  # raises an error without one
        self._before = copied_latents(self._selection) if self.level(step) else []

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Undo the updates of weights that are not at a threshold."""
        for group, before in zip(self._selection.groups, self._before, strict=False):
            group.refresh()
            limit = torch.tensor(self.level(step), dtype=torch.float32, device=group.device)
            allowed = [float(each) for each in self._selection.allowed(group)]
            for block in self._selection.tracker.blocks(group):
                rows = block.per_row(allowed)
                block.run(update_passes.hold, block.read(), block.of(before), limit, rows)
                block.write_back()
        self._before = []

    def level(self, step: int) -> float | None:
        """Return the boundary range in optimizer step `step`; None while it is off."""
        return None if step < self.begin else self.boundary_range(step) or None
