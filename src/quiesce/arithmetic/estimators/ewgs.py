"""Element-wise gradient scaling: more gradient where a step would bring u nearer to its code.

    gradient = grad * (1 + delta * sign(grad) * (u - code))

Source: Lee, Kim, Ham, Network Quantization With Element-Wise Gradient Scaling, CVPR 2021,
arXiv:2104.00903. Units: u - code is in steps of the grid here; the paper normalises to [0, 1], so
that its delta for b bits is divided by 2^b - 1 here. The paper adapts delta to the curvature of
the loss during training; here it is a number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding


@dataclass(frozen=True, kw_only=True)
class EWGS(NearestRounding):
    """Scales each gradient by its sign and by the rounding error.

    Raises:
        ValueError: `delta` is not from 0 to below 2.
    """

    delta: float = 0.2
    """How much, per step of the grid: 0 is the STE, below 2 keeps the sign of every gradient."""

    def __post_init__(self) -> None:
        if not 0 <= self.delta < 2:
            raise ValueError(f"`delta` must be 0 to below 2, got {self.delta}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` times 1 - delta/2 to 1 + delta/2."""
        return grad * (1 + self.delta * torch.sign(grad) * (u - code))
