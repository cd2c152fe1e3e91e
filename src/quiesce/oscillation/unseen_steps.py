"""Detection of weights that change although their tracker observes no step."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.parallel.split_weights import local
from quiesce.quantization.quantized_weight import QuantizedWeight

_SAMPLE = 16
"""Number of weights per layer that are compared."""


class UnseenSteps:
    """Stores a few latents of each layer at the time when a tracker is created."""

    def __init__(self, weights: Sequence[QuantizedWeight]) -> None:
        self._weights = weights
        self._before = [_some(weight).clone() for weight in weights]

    def check(self, steps: int) -> None:
        """Warn if weights have changed since and the tracker has observed 0 `steps`."""
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
    """Return a few latents from the start of a weight or of its part in this process."""
    latent = local(weight.latent)
    return latent[(*(slice(1) for _ in latent.shape[1:]), slice(_SAMPLE))]
