"""Whether weights have moved although their tracker has seen no step."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.quantization.quantized_weight import QuantizedWeight

_SAMPLE = 16
"""Weights of each layer that are compared."""


class UnseenSteps:
    """Remembers a few latents of each layer, as they were when a tracker was made.

    Args:
        weights: Those that the tracker follows.
    """

    def __init__(self, weights: Sequence[QuantizedWeight]) -> None:
        self._weights = weights
        self._before = [_some(weight).clone() for weight in weights]

    def check(self, steps: int) -> None:
        """Warn if weights have moved since, and the tracker has seen 0 `steps`."""
        if steps:
            return
        pairs = zip(self._weights, self._before, strict=True)
        if not all(torch.equal(_some(weight), before) for weight, before in pairs):
            warnings.warn(
                "the weights have changed, and the tracker has seen 0 optimizer steps, so it has "
                "measured nothing. Either there is no quiesce.Control, or step() of the optimizer "
                "that it was given is never called: where a wrapper steps another optimizer, give "
                "Control that one",
                stacklevel=4,
            )


def _some(weight: QuantizedWeight) -> Tensor:
    """A few latents from the start of a weight, or of the part that this process holds."""
    held = weight.held
    return held[(*(slice(1) for _ in held.shape[1:]), slice(_SAMPLE))]
