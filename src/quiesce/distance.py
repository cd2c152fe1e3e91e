"""How far weights travel after rounding, compared with before: the distance ratio.

R = sum |q_t - q_(t-1)| / sum |w_t - w_(t-1)|, over the weights of a layer and the steps looked at,
q the quantized and w the latent weight. Near 1 rounding follows the latents; far above 1 codes
jump while latents hardly move. Source: TetraJet, arXiv:2502.20853.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quiesce.flat import flatten, storage_order
from quiesce.weights import QuantizedWeight


class DistanceSampling(NamedTuple):
    """Which weights and steps are looked at; the ratio is exact with (None, 1)."""

    weights: int | None = 1024
    """Weights per layer, evenly spread, or None for all; 8 bytes each."""
    every: int = 16
    """One pair of consecutive steps out of so many."""


class DistanceMeter:
    """Adds up, per layer, how far latent and quantized weights went.

    Args:
        weights: What to look at.
        sampling: How much of it.

    Raises:
        ValueError: A number in `sampling` below 1.
    """

    def __init__(self, weights: Sequence[QuantizedWeight], sampling: DistanceSampling) -> None:
        if sampling.every < 1 or (sampling.weights is not None and sampling.weights < 1):
            raise ValueError(
                f"a distance is sampled from at least 1 weight and step, got {sampling}"
            )
        self._weights = list(weights)
        self._every = sampling.every
        self._spacing = [
            1 if sampling.weights is None else max(1, weight.latent.numel() // sampling.weights)
            for weight in weights
        ]
        device = self._weights[0].latent.device
        self._traveled = torch.zeros(2, len(self._weights), device=device)
        self._last: list[tuple[Tensor, Tensor]] | None = None

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Look at the weights as they are after optimizer step `step`, where it is of a pair."""
        phase = step % self._every
        if self._every > 1 and phase > 1:
            return
        now = [self._positions(i) for i in range(len(self._weights))]
        if self._last is not None and (self._every == 1 or phase == 1):
            for layer, (before, after) in enumerate(zip(self._last, now, strict=True)):
                for kind in range(2):
                    self._traveled[kind, layer] += (after[kind] - before[kind]).abs().sum()
        self._last = now if self._every == 1 or phase == 0 else None

    def ratios(self) -> Tensor:
        """R per layer since the start: shape (layers,), 0 where the latents did not move."""
        latent, quantized = self._traveled
        return torch.where(latent > 0, quantized / latent, 0.0)

    def overall(self) -> float:
        """R over all layers' sampled weights."""
        latent, quantized = self._traveled.sum(1).tolist()
        return quantized / latent if latent > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The sums, and the positions where a pair is half done."""
        return {
            "traveled": self._traveled.clone(),
            "strides": self._strides(),
            "last": self._last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; a half pair of another memory format is of other weights."""
        self._traveled.copy_(state["traveled"])
        fits = state["strides"] == self._strides()
        pairs = (state["last"] or []) if fits else []
        self._last = [(latent, quantized) for latent, quantized in pairs] or None

    def _positions(self, layer: int) -> tuple[Tensor, Tensor]:
        weight, where = self._weights[layer], slice(None, None, self._spacing[layer])
        latent = flatten(weight.latent, storage_order(weight.latent))[where]
        return latent.float().clone(), weight.quantized(where)

    def _strides(self) -> list[tuple[int, ...]]:
        return [weight.latent.stride() for weight in self._weights]
