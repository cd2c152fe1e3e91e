"""The choice that oscillation leaves open: which of its two codes each oscillating weight takes.

A weight that oscillates ends on one of two neighbouring codes by chance. The average of its codes
says which two they are, and how large a share of the steps it spent on the upper one.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The oscillating weights of one layer, K of them, and their two codes."""

    weight: QuantizedWeight
    """The layer's weight."""
    index: Tensor
    """Which weights oscillate: int64 into the flattened latent, shape (K,)."""
    lower: Tensor
    """The lower of the two codes: integral floats, shape (K,); the upper one is 1 more."""
    probability: Tensor
    """Share of the steps on the upper code, from the average of codes: floats, shape (K,)."""

    @property
    def now(self) -> Tensor:
        """The codes that the network computes with: integral floats, shape (K,)."""
        return self.weight.codes().flatten()[self.index].to(self.lower.dtype)


def oscillating_choices(
    tracker: OscillationTracker, *, cut: float = OSCILLATING, max_bits: int = 4
) -> list[Choice]:
    """Return the choices of all layers that have any.

    Args:
        tracker: That follows the average of codes of the layers looked at.
        cut: Frequency above which a weight counts as oscillating; frozen ones do not.
        max_bits: Layers of more bits are left out.

    Raises:
        TrackingError: Nothing follows the average of a layer's codes.
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
    """Return codes for every choice, each weight's drawn by itself by its share of the steps.

    Args:
        choices: K weights each.
        generator: Of the CPU, so that a seed draws the same codes on every device.

    Returns:
        Integral floats of shape (K,) for each choice.
    """
    return [
        choice.lower + _drawn(choice.probability, generator).to(choice.lower.dtype)
        for choice in choices
    ]


@contextmanager
def replaced(choices: Sequence[Choice], codes: Sequence[Tensor]) -> Iterator[None]:
    """Let the network compute with other codes for the length of the block.

    Latents, scales and history stay as they are: the quantizer's output is changed on its way.

    Args:
        choices: Which weights.
        codes: For each choice floats of shape (K,); gradients reach them.
    """
    with ExitStack() as stack:
        for choice, values in zip(choices, codes, strict=True):
            quantizer: Any = choice.weight.module.weight_quantizer
            handle = quantizer.register_forward_hook(_emit(choice, values))
            stack.callback(handle.remove)
        yield


def _emit(choice: Choice, codes: Tensor) -> Any:
    scale = choice.weight.scale.expand_as(choice.weight.latent).flatten()[choice.index]

    def hook(_: Any, __: Any, emitted: Tensor) -> Tensor:
        values = (scale * codes).to(emitted.dtype)
        flat = emitted.detach().flatten().index_put((choice.index,), values)
        return flat.view(emitted.shape)

    return hook


def _drawn(probability: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.bernoulli(probability.cpu(), generator=generator)
    return drawn.to(probability.device)
