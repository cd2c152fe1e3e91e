"""Latent, code and frequency of a few weights, written down step by step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.kinds import layer_kind
from quiesce.quantization.quantized_weight import QuantizedWeight


class Trajectory:
    """Follows chosen weights of one layer; call `step` after each optimizer step.

    Args:
        tracker: Follows the layer.
        layer: Its name in the tracker.
        index: The weights, as int64 indices into the layer's latent, flattened: shape (K,).

    Raises:
        KeyError: The tracker follows no such layer.
        ValueError: It has no weight of such an index.
    """

    def __init__(self, tracker: OscillationTracker, layer: str, index: Tensor) -> None:
        self.layer = layer
        self.index = index
        self._tracker = tracker
        self._weight = _named(tracker.weights, layer)
        size = self._weight.latent.numel()
        if index.dim() != 1 or not ((index >= 0) & (index < size)).all():
            raise ValueError(f"index must be of some of the {size} weights of {layer}")
        self._rows: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def step(self) -> None:
        """Write down where the weights are now."""
        weight = self._weight
        scale = weight.scale.expand_as(weight.latent)
        columns = (scale, weight.latent, weight.codes(), self._tracker.frequency(weight.name))
        row = torch.stack([column.flatten()[self.index].float() for column in columns])
        self._rows.append((self._tracker.steps, row.cpu()))

    def state_dict(self) -> dict[str, Any]:
        """What was written down so far, and of which weights."""
        return {"layer": self.layer, "index": self.index, "rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, of the same layer and the same weights.

        Raises:
            ValueError: It is of another number of weights.
        """
        if any(row.shape != (4, len(self.index)) for _, row in state["rows"]):
            raise ValueError(f"the saved trajectory is not of {len(self.index)} weights")
        self._rows = [(step, row) for step, row in state["rows"]]

    def arrays(self) -> dict[str, Tensor]:
        """Return what was written down, of T steps and K weights.

        Returns:
            "steps" int64 (T,): optimizer steps done; "index" int64 (K,); "scale", "latent" (in
            its own unit) and "frequency" float32 (T, K); "code" int8 (T, K); "quant_min" and
            "quant_max" int64 (), the ends of the grid.
        """
        rows = [row for _, row in self._rows]
        width = len(self.index)
        scale, latent, code, frequency = (
            torch.stack(rows).unbind(1) if rows else torch.zeros(4, 0, width)
        )
        grid = self._weight.grid
        return {
            "steps": torch.tensor([step for step, _ in self._rows], dtype=torch.int64),
            "index": self.index.cpu(),
            "scale": scale,
            "latent": latent,
            "code": code.to(torch.int8),
            "frequency": frequency,
            "quant_min": torch.tensor(grid.quant_min),
            "quant_max": torch.tensor(grid.quant_max),
        }


def most_oscillating_layer(tracker: OscillationTracker, max_bits: int = 4) -> str:
    """Return the layer with the largest share of oscillating weights.

    Depth-wise layers go first, as long as one of them oscillates at all. Where no layer does, it
    is the one with the weight of highest frequency.

    Args:
        tracker: Whose weights are looked at.
        max_bits: Layers of more bits are left out, as long as there is another: the codes of an
            8-bit layer are so close that most of them move all the time, to no harm.
    """
    narrow = [weight for weight in tracker.weights if weight.grid.bits <= max_bits]
    weights = narrow or tracker.weights
    depthwise = [weight for weight in weights if layer_kind(weight.module) == "depth-wise"]
    for candidates in (depthwise, weights):
        share, best = max(
            ((_oscillating(tracker, weight), weight.name) for weight in candidates),
            key=lambda pair: pair[0],
            default=(0.0, ""),
        )
        if share > 0:
            return best
    return max([*depthwise, *weights], key=lambda weight: _highest(tracker, weight)).name


def most_oscillating(tracker: OscillationTracker, layer: str, count: int = 16) -> Tensor:
    """Return the `count` weights of highest frequency, at most all, as indices for `Trajectory`.

    Frozen weights come last: they move no more.

    Raises:
        KeyError: The tracker follows no such layer.
    """
    frequency = _of_moving(tracker, _named(tracker.weights, layer)).flatten()
    return frequency.topk(min(count, len(frequency))).indices


def _of_moving(tracker: OscillationTracker, weight: QuantizedWeight) -> Tensor:
    """Frequencies, of the shape of the latent; -1 where the weight is frozen."""
    return torch.where(weight.frozen, -1.0, tracker.frequency(weight.name))


def _highest(tracker: OscillationTracker, weight: QuantizedWeight) -> float:
    return _of_moving(tracker, weight).max().item()


def _oscillating(tracker: OscillationTracker, weight: QuantizedWeight) -> float:
    return (_of_moving(tracker, weight) > OSCILLATING).double().mean().item()


def _named(weights: Sequence[QuantizedWeight], name: str) -> QuantizedWeight:
    known = {weight.name: weight for weight in weights}
    if name not in known:
        raise KeyError(f"no tracked layer is called {name!r}; there are {list(known)}")
    return known[name]
