"""Element-wise gradient scaling: a larger gradient if a step would bring u nearer to its code.

    gradient = grad * (1 + delta * sign(grad) * (u - code))

Source: Lee, Kim, Ham, Network Quantization With Element-Wise Gradient Scaling, CVPR 2021,
arXiv:2104.00903. Here u - code is in grid steps; the paper normalizes to [0, 1], so divide its
delta for b bits by 2^b - 1. The paper adapts delta to the curvature of the loss; here it is fixed.
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

    Examples:
        >>> u = torch.tensor([0.3, 0.6], requires_grad=True)
        >>> grid = qs.Grid(3, signed=True)
        >>> y = qs.fake_quantize(u, torch.tensor(0.5), grid, estimator=qs.EWGS(delta=0.2))
        >>> y.sum().backward()
        >>> [round(each, 3) for each in u.grad.tolist()]
        [0.92, 1.04]
    """

    delta: float = 0.2
    """Strength per grid step: 0 is the STE, and below 2 every gradient keeps its sign."""

    def __post_init__(self) -> None:
        if not 0 <= self.delta < 2:
            raise ValueError(f"`delta` must be 0 to below 2, got {self.delta}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad` times a factor from 1 - delta/2 to 1 + delta/2."""
        return grad * (1 + self.delta * torch.sign(grad) * (u - code))
