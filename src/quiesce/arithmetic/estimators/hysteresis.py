"""Hysteresis: a code changes only once u is clearly beyond the threshold.

    code = previous code while |u - previous code| <= 1/2 + width/2, else the nearest

Source: Lee, Park, Jeon, Toward Efficient Low-Precision Training: Data Format Optimization and
Hysteresis Quantization, ICLR 2022 (openreview.net/forum?id=3HJOA-1hb0e), for the idea. The dead
band of a chosen width is quiesce's form of it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import Estimator


@dataclass(frozen=True, kw_only=True)
class Hysteresis(Estimator):
    """Rounds to nearest but for a dead band around each threshold. For weights.

    The previous code is the one in the weight's history: as of the last optimizer step, kept by a
    tracker. Where there is no history it rounds to nearest. The gradient passes unchanged.

    Raises:
        ValueError: `width` is not above 0 and at most 1.
    """

    needs_history: ClassVar[bool] = True

    width: float = 1.0
    """Of the dead band, in steps of the grid, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if not 0 < self.width <= 1:
            raise ValueError(f"`width` must be above 0 and at most 1, got {self.width}")

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """`previous` where u is within reach of it, elsewhere the nearest, ties to even."""
        nearest = torch.round(u)
        if previous is None:
            return nearest
        held = (u - previous).abs() <= (1 + self.width) / 2
        return torch.where(held, previous.to(u.dtype), nearest)

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` itself."""
        return grad
