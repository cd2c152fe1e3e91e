"""The two codes of each oscillating weight, and networks with other codes.

An oscillating weight ends training on one of two neighbouring codes by chance. The average of its
codes shows which two, and the share of steps on the upper one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The K oscillating weights of one layer, and their two codes."""

    weight: QuantizedWeight
    """The weight of the layer."""
    index: Tensor
    """Indices of the oscillating weights in the flattened latent weight: int64 (K,)."""
    lower: Tensor
    """The lower code: integral floats (K,); the upper code is 1 more."""
    probability: Tensor
    """Share of the steps on the upper code: floats (K,)."""

    @property
    def now(self) -> Tensor:
        """Codes in use: integral floats (K,)."""
        return self.weight.codes().flatten()[self.index].to(self.lower.dtype)


def oscillating_choices(
    tracker: OscillationTracker, *, cut: float = OSCILLATING, max_bits: int = 4
) -> list[Choice]:
    """Return the choices of all layers with oscillating weights.

    Args:
        tracker: A tracker that follows the average codes of these layers.
        cut: Frequency above which a weight counts as oscillating; frozen weights never do.
        max_bits: Layers with more bits are left out.

    Raises:
        TrackingError: The tracker does not follow the average code of a layer.
    """
    choices = []
    for weight in tracker.weights:
        if weight.grid.bits > max_bits:
            continue
        moving = (tracker.frequency(weight.name) > cut) & ~weight.frozen
        index = moving.flatten().nonzero().squeeze(1)
        average = tracker.average(weight.name).flatten()[index]
        lower = average.floor().clamp(weight.grid.quant_min, weight.grid.quant_max - 1)
        share = (average - lower).clamp(0, 1)
        if len(index):
            choices.append(Choice(weight=weight, index=index, lower=lower, probability=share))
    return choices


def draw(choices: Sequence[Choice], generator: torch.Generator) -> list[Tensor]:
    """Return random codes: each weight takes its upper code with its probability.

    Args:
        choices: The choices, with K weights each.
        generator: A CPU generator, so that a seed gives the same codes on every device.

    Returns:
        For each choice, integral floats (K,).
    """
    return [
        choice.lower
        + torch.bernoulli(choice.probability.cpu(), generator=generator).to(choice.lower)
        for choice in choices
    ]


@contextmanager
def replaced(choices: Sequence[Choice], codes: Sequence[Tensor]) -> Iterator[None]:
    """Make the network compute with other codes in the block.

    Only the outputs of quantizers change; latent weights, scales and history stay the same.

    Args:
        choices: The weights.
        codes: For each choice, floats (K,); gradients flow to them.
    """
    with ExitStack() as stack:
        for choice, values in zip(choices, codes, strict=True):
            handle = choice.weight.on_output(_emit(choice, values))
            stack.callback(handle.remove)
        yield


def _emit(choice: Choice, codes: Tensor) -> Callable[[Tensor], Tensor]:
    scale = choice.weight.scale.expand_as(choice.weight.latent).flatten()[choice.index]

    def change(emitted: Tensor) -> Tensor:
        values = choice.weight.grid.values(codes, scale).to(emitted.dtype)
        flat = emitted.detach().flatten().index_put((choice.index,), values)
        return flat.view(emitted.shape)

    return change
