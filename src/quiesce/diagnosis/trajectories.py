"""Records latent weight, code and frequency of a few weights, step by step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight


class Trajectory:
    """Records some weights of a layer; call `step` after each optimizer step.

    Args:
        tracker: A tracker of the layer.
        layer: Name of the layer in the tracker.
        index: Indices into the flattened latent weight: int64 (K,).

    Raises:
        KeyError: The tracker has no such layer.
        ValueError: An index is out of range.
    """

    def __init__(self, tracker: OscillationTracker, layer: str, index: Tensor) -> None:
        self.layer = layer
        self.index = index
        self._tracker = tracker
        self._weight = _named(tracker.weights, layer)
        size = self._weight.latent.numel()
        if index.dim() != 1 or not ((index >= 0) & (index < size)).all():
            raise ValueError(f"index must be between 0 and {size - 1} for {layer}")
        self._rows: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def step(self) -> None:
        """Record the weights."""
        weight = self._weight
        scale = weight.scale.expand_as(weight.latent)
        columns = (scale, weight.held, weight.codes(), self._tracker.frequency(weight.name))
        row = torch.stack([column.flatten()[self.index].float() for column in columns])
        self._rows.append((self._tracker.steps, row.cpu()))

    def state_dict(self) -> dict[str, Any]:
        """Return the records so far, and the layer and indices."""
        return {"layer": self.layer, "index": self.index, "rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of the same layer and weights.

        Raises:
            ValueError: The state has another number of weights.
        """
        if any(row.shape != (4, len(self.index)) for _, row in state["rows"]):
            raise ValueError(f"the saved trajectory does not have {len(self.index)} weights")
        self._rows = [(step, row) for step, row in state["rows"]]

    def arrays(self) -> dict[str, Tensor]:
        """Return the records for T steps and K weights.

        Returns:
            "steps" int64 (T,): number of optimizer steps; "index" int64 (K,); "scale", "latent" and
            "frequency" float32 (T, K); "code" int8 (T, K); "quant_min" and "quant_max" int64 ().
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

    Depth-wise layers are preferred if one of them oscillates. If no layer oscillates, it is the
    layer of the weight with the highest frequency.

    Args:
        max_bits: Layers with more bits are considered only if there is no other. Codes of 8-bit
            layers are so close together that most of them always change, without harm.
    """
    narrow = [weight for weight in tracker.weights if weight.grid.bits <= max_bits]
    weights = narrow or tracker.weights
    depthwise = [weight for weight in weights if weight.kind == "depth-wise"]
    moving = {weight.name: _of_moving(tracker, weight) for weight in weights}
    shares = {name: (each > OSCILLATING).double().mean().item() for name, each in moving.items()}
    for candidates in (depthwise, weights):
        best = max((weight.name for weight in candidates), key=shares.__getitem__, default="")
        if shares.get(best, 0) > 0:
            return best
    names = [weight.name for weight in (*depthwise, *weights)]
    return max(names, key=lambda name: moving[name].max().item())


def most_oscillating(tracker: OscillationTracker, layer: str, count: int = 16) -> Tensor:
    """Return the `count` weights with the highest frequency, as indices for `Trajectory`.

    Frozen weights come last.

    Raises:
        KeyError: The tracker has no such layer.
    """
    frequency = _of_moving(tracker, _named(tracker.weights, layer)).flatten()
    return frequency.topk(min(count, len(frequency))).indices


def _of_moving(tracker: OscillationTracker, weight: QuantizedWeight) -> Tensor:
    """Return frequencies in the shape of the latent weight; -1 for frozen weights."""
    return torch.where(weight.frozen, -1.0, tracker.frequency(weight.name))


def _named(weights: Sequence[QuantizedWeight], name: str) -> QuantizedWeight:
    known = {weight.name: weight for weight in weights}
    if name not in known:
        raise KeyError(f"the tracker has no layer {name!r}, but {list(known)}")
    return known[name]
