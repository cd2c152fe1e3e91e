"""Gradients of a staircase whose steps are sigmoids: largest at the thresholds.

Between two grid points, with v = u - (floor(u) + 1/2) the distance from the threshold, both take
the derivative of one sigmoid, scaled so that the soft staircase meets every grid point:

    factor(v) = k/2 * (1 - tanh(k v)^2) / tanh(k/2),    of average 1 over a step

DSQ says how far the sigmoid falls short of the grid points (alpha), the stacked sigmoid how steep
it is. Both curves are the same family: DSQ at alpha is the stacked sigmoid of slope
2 ln(2/alpha - 1).

Sources: DSQ from Gong et al., Differentiable Soft Quantization, ICCV 2019, arXiv:1908.05033, which
learns alpha for each layer; here it is a number, and the forward is the hard rounding. Sigmoids
one upon another from Yang et al., Quantization Networks, CVPR 2019, arXiv:1911.09464, which
hardens them during training; here they shape the gradient alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding


@dataclass(frozen=True, kw_only=True)
class DSQ(NearestRounding):
    """Differentiable soft quantization, hard in the forward.

    Raises:
        ValueError: `alpha` is not above 0 and below 1.
    """

    alpha: float = 0.4
    """Softness, above 0 (a hard step) and below 1 (a straight line, the STE): before it is scaled
    the tanh of each step ends at 1 - alpha."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"`alpha` must be above 0 and below 1, got {self.alpha}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` times the derivative of the soft staircase."""
        return grad * _derivative(u, math.log(2 / self.alpha - 1))


@dataclass(frozen=True, kw_only=True)
class StackedSigmoid(NearestRounding):
    """A logistic function at every threshold.

    Raises:
        ValueError: `slope` is not above 0 and at most 100.
    """

    slope: float = 1.0
    """Of the logistic function, per step of the grid, above 0 (the STE) and at most 100."""

    def __post_init__(self) -> None:
        if not 0 < self.slope <= 100:
            raise ValueError(f"`slope` must be above 0 and at most 100, got {self.slope}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` times the derivative of the soft staircase."""
        return grad * _derivative(u, self.slope / 2)


def _derivative(u: Tensor, steepness: float) -> Tensor:
    from_threshold = u - torch.floor(u) - 0.5
    peak = steepness / 2 / math.tanh(steepness / 2)
    return peak * (1 - torch.tanh(steepness * from_threshold).square())
