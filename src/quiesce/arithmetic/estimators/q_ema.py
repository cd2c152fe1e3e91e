"""Q-EMA: of the two codes next to u, the one on the side of the average of past latent weights.

    average <- beta * average + (1 - beta) * latent        after every optimizer step
    code = ceil(u) if average/s > floor(u) + 1/2, else floor(u)

The latent weight decides between which two codes, its average between the two. After every step
the tracker updates the average, decides, and records the code, which the forward pass uses. In the
first steps the average is the latent weight, so the code is the nearest.

Source: Chen, Xi, Zhu, Chen, TetraJet, Oscillation-Reduced MXFP4 Training for Vision Transformers,
ICML 2025, arXiv:2502.20853. There the average starts at the first step, and decides from the tenth
on.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import Estimator


@dataclass(frozen=True, kw_only=True)
class QEMA(Estimator):
    """Rounds by the average of past latents; for weights only.

    Without recorded codes, rounding is to nearest. The gradient is the straight-through gradient.
    The average takes 4 bytes per weight, in the tracker.

    Raises:
        ValueError: `beta` is not from 0 to below 1.

    Examples:
        >>> qs.QEMA(beta=0.99).choose(torch.tensor([0.6]), average=torch.tensor([0.4])).item()
        0.0
    """

    needs_history: ClassVar[bool] = True
    needs_average: ClassVar[bool] = True
    beta: float = 0.998
    """Weight of the old average, 0 (rounding to nearest) to below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ValueError(f"`beta` must be 0 to below 1, got {self.beta}")

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return the neighbour of u that is nearest to `previous`, or else the nearest integer."""
        if previous is None:
            return torch.round(u)
        return torch.minimum(torch.maximum(previous.to(u.dtype), torch.floor(u)), torch.ceil(u))

    def choose(self, u: Tensor, average: Tensor) -> Tensor:
        """Return the neighbour of u on the side of `average`, both in grid steps."""
        below = torch.floor(u)
        return torch.where(average > below + 0.5, torch.ceil(u), below)

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad`."""
        return grad
