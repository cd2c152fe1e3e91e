"""Hysteresis: a code changes only if u is clearly beyond the threshold.

    code = previous code while |u - previous code| <= 1/2 + width/2, else the nearest

Source of the idea: Lee, Park, Jeon, Toward Efficient Low-Precision Training: Data Format
Optimization and Hysteresis Quantization, ICLR 2022 (openreview.net/forum?id=3HJOA-1hb0e). The dead
band with a free width is the form of quiesce.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import Estimator


@dataclass(frozen=True, kw_only=True)
class Hysteresis(Estimator):
    """Rounds to nearest except in a dead band around each threshold; for weights only.

    The previous code is that after the last optimizer step, which a tracker records. Without it,
    rounding is to nearest. The gradient is the straight-through gradient.

    Raises:
        ValueError: `width` is not above 0 and at most 1.

    Examples:
        >>> u, previous = torch.tensor([0.6, 1.6]), torch.tensor([0.0, 0.0])
        >>> qs.Hysteresis(width=0.5).round(u, previous).tolist()
        [0.0, 2.0]
    """

    needs_history: ClassVar[bool] = True
    width: float = 1.0
    """Width of the dead band in grid steps, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if not 0 < self.width <= 1:
            raise ValueError(f"`width` must be above 0 and at most 1, got {self.width}")

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return `previous` where u is inside its dead band, and the nearest integer elsewhere."""
        nearest = torch.round(u)
        if previous is None:
            return nearest
        held = (u - previous).abs() <= (1 + self.width) / 2
        return torch.where(held, previous.to(u.dtype), nearest)

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad`."""
        return grad
