"""Distance ratio: distance travelled by quantized weights over that of latent weights.

R = sum |q_t - q_(t-1)| / sum |w_t - w_(t-1)| over the sampled weights and steps of a layer, with
quantized weight q and latent weight w. If R is near 1, quantized weights follow the latents. If R
is far above 1, codes jump while latents hardly move. Source: TetraJet, arXiv:2502.20853.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quiesce.arithmetic import weight_passes
from quiesce.oscillation.selected_weights import sample
from quiesce.oscillation.weight_group import WeightGroup


class DistanceSampling(NamedTuple):
    """The sampled weights and steps; the ratio is exact with (None, 1).

    Examples:
        >>> sampling = qs.DistanceSampling(weights=64, every=8)
        >>> tracker = qs.OscillationTracker(weights, distance=sampling)
        >>> tracker.report()[0].distance_ratio
        0.0
    """

    weights: int | None = 1024
    """Number of evenly spaced weights per layer, or None for all; 8 bytes each."""
    every: int = 16
    """Sampling interval: one pair of consecutive steps in every `every` steps."""


class DistanceMeter:
    """Sums the distances travelled by latent and quantized weights, per layer.

    Raises:
        ValueError: A number in `sampling` is below 1.
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
        """Read the weights after optimizer step `step` if the step belongs to a sampled pair."""
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
        """Return by layer the distances travelled by latent and quantized weights: (2,)."""
        return {
            weight.name: traveled[:, i]
            for group, traveled in zip(self._groups, self._traveled, strict=True)
            for i, weight in enumerate(group.weights)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the positions of an unfinished pair; the sums are in `traveled`.

        The positions always exist, and are zero without an unfinished pair, because
        torch.distributed.checkpoint loads only into existing entries.
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
        """Load the result of `state_dict`.

        An unfinished pair is dropped if the memory format or the split of the weights differs.

        Raises:
            ValueError: The number of positions does not match the layout in the state.
        """
        same = state["layout"] == self._layout() and not self._split()
        last = state["last"] if same and state.get("half_done", True) else None
        if last is not None and [tuple(each.shape) for each in last] != self._shapes():
            raise ValueError("the saved positions are for another number of weights")
        self._last = last

    def _shapes(self) -> list[tuple[int, int]]:
        """Return the shapes of the positions of each group."""
        samples = [sample(group, self._sampling.weights)[1] for group in self._groups]
        return [(2, sum(counts)) for counts in samples]

    def _split(self) -> bool:
        return any(weight.shards is not None for group in self._groups for weight in group.weights)

    def _layout(self) -> list[tuple[int, ...]]:
        held = [weight.held for group in self._groups for weight in group.weights]
        return [(*latent.shape, *latent.stride()) for latent in held]


def distance_ratio(latent: float, quantized: float) -> float:
    """Return R for two distances, or 0 if the latent weights did not move."""
    return quantized / latent if latent > 0 else 0.0
