"""How far weights travel after rounding, compared with before: the distance ratio.

R = sum |q_t - q_(t-1)| / sum |w_t - w_(t-1)|, over the weights of a layer and the steps looked at,
q the quantized and w the latent weight. Near 1 rounding follows the latents; far above 1 codes
jump while latents hardly move. Source: TetraJet, arXiv:2502.20853.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quiesce.arithmetic import weight_passes
from quiesce.oscillation.selected_weights import sample
from quiesce.oscillation.weight_group import WeightGroup


class DistanceSampling(NamedTuple):
    """Which weights and steps are looked at; the ratio is exact with (None, 1)."""

    weights: int | None = 1024
    """Weights per layer, evenly spread, or None for all; 8 bytes each."""
    every: int = 16
    """One pair of consecutive steps out of so many."""


class DistanceMeter:
    """Adds up, per layer, how far latent and quantized weights went.

    Args:
        groups: The weights.
        sampling: How much of them is looked at.

    Raises:
        ValueError: A number in `sampling` below 1.
    """

    def __init__(self, groups: Sequence[WeightGroup], sampling: DistanceSampling) -> None:
        if sampling.every < 1 or (sampling.weights is not None and sampling.weights < 1):
            raise ValueError(
                f"a distance is sampled from at least 1 weight and step, got {sampling}"
            )
        self._groups = list(groups)
        self._sampling = sampling
        self._traveled = [
            torch.zeros(2, len(group.weights), dtype=torch.float64, device=group.device)
            for group in groups
        ]
        self._last: list[Tensor] | None = None

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Look at the weights as they are after optimizer step `step`, where it is of a pair."""
        every = self._sampling.every
        phase = step % every
        if every > 1 and phase > 1:
            return
        samples = [sample(group, self._sampling.weights) for group in self._groups]
        now = [
            torch.stack([chosen.latent.float(), weight_passes.quantized(chosen).float()])
            for chosen, _ in samples
        ]
        if self._last is not None and (every == 1 or phase == 1):
            parts = zip(self._traveled, self._last, now, samples, strict=True)
            for traveled, before, after, (_, counts) in parts:
                moved = (after - before).abs()
                traveled += torch.stack([part.sum(1) for part in moved.split(counts, dim=1)], 1)
        self._last = now if every == 1 or phase == 0 else None

    def traveled(self) -> dict[str, Tensor]:
        """By layer, how far its sampled latent and quantized weights went since the start: (2,)."""
        return {
            weight.name: traveled[:, i]
            for group, traveled in zip(self._groups, self._traveled, strict=True)
            for i, weight in enumerate(group.weights)
        }

    def state_dict(self) -> dict[str, Any]:
        """The positions where a pair is half done; the sums are `traveled`.

        There are always positions, zeros where no pair is half done, because
        torch.distributed.checkpoint loads only into entries that are there already.
        """
        shapes = self._shapes()
        last = self._last or [
            torch.zeros(shape, device=group.device)
            for shape, group in zip(shapes, self._groups, strict=True)
        ]
        return {
            "layout": self._layout(),
            "half_done": self._last is not None,
            "last": None if self._split() else last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; a half pair of another memory format is of other weights.

        So is one of weights that are split otherwise: it is dropped.

        Raises:
            ValueError: Its positions are of another number of weights than its layout.
        """
        same = state["layout"] == self._layout() and not self._split()
        last = state["last"] if same and state.get("half_done", True) else None
        if last is not None and [tuple(each.shape) for each in last] != self._shapes():
            raise ValueError("the saved positions are of another number of weights")
        self._last = last

    def _shapes(self) -> list[tuple[int, int]]:
        """Of the positions of each group."""
        samples = [sample(group, self._sampling.weights)[1] for group in self._groups]
        return [(2, sum(counts)) for counts in samples]

    def _split(self) -> bool:
        return any(weight.shards is not None for group in self._groups for weight in group.weights)

    def _layout(self) -> list[tuple[int, ...]]:
        held = [weight.held for group in self._groups for weight in group.weights]
        return [(*latent.shape, *latent.stride()) for latent in held]


def distance_ratio(latent: float, quantized: float) -> float:
    """R of how far latent and quantized weights went: 0 where the latents did not move."""
    return quantized / latent if latent > 0 else 0.0
