"""Gradients of a staircase of sigmoids, which are largest at the thresholds.

Between two grid points, with v = u - (floor(u) + 1/2) the distance from the threshold, both
estimators use the derivative of one sigmoid, scaled so that the soft staircase meets every grid
point:

    factor(v) = k/2 * (1 - tanh(k v)^2) / tanh(k/2),    with mean 1 over a step

The parameter of DSQ is the distance of the sigmoid from the grid points (alpha), that of the
stacked sigmoid is its slope. DSQ with alpha is the stacked sigmoid with slope 2 ln(2/alpha - 1).

Sources: DSQ is from Gong et al., Differentiable Soft Quantization, ICCV 2019, arXiv:1908.05033,
which learns alpha for each layer; here it is fixed, and the forward pass rounds. Stacked sigmoids
are from Yang et al., Quantization Networks, CVPR 2019, arXiv:1911.09464, which makes them steeper
during training; here they define only the gradient.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding


@dataclass(frozen=True, kw_only=True)
class DSQ(NearestRounding):
    """Differentiable soft quantization, with hard rounding in the forward pass.

    Raises:
        ValueError: `alpha` is not above 0 and below 1.

    Examples:
        >>> u = torch.tensor([0.3, 0.6], requires_grad=True)
        >>> grid = qs.Grid(3, signed=True)
        >>> y = qs.fake_quantize(u, torch.tensor(0.5), grid, estimator=qs.DSQ(alpha=0.4))
        >>> y.sum().backward()
        >>> [round(each, 3) for each in u.grad.tolist()]
        [1.133, 0.976]
    """

    alpha: float = 0.4
    """Softness, above 0 (a hard step) and below 1 (a straight line, the STE): before scaling, the
    tanh of each step ends at 1 - alpha."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"`alpha` must be above 0 and below 1, got {self.alpha}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad` times the derivative of the soft staircase."""
        return grad * _derivative(u, math.log(2 / self.alpha - 1))


@dataclass(frozen=True, kw_only=True)
class StackedSigmoid(NearestRounding):
    """A logistic function at every threshold.

    Raises:
        ValueError: `slope` is not above 0 and at most 100.

    Examples:
        >>> u = torch.tensor([0.3, 0.6], requires_grad=True)
        >>> grid = qs.Grid(3, signed=True)
        >>> y = qs.fake_quantize(u, torch.tensor(0.5), grid, estimator=qs.StackedSigmoid())
        >>> y.sum().backward()
        >>> [round(each, 3) for each in u.grad.tolist()]
        [1.018, 0.998]
    """

    slope: float = 1.0
    """Slope of the logistic function per grid step, above 0 (the STE) and at most 100."""

    def __post_init__(self) -> None:
        if not 0 < self.slope <= 100:
            raise ValueError(f"`slope` must be above 0 and at most 100, got {self.slope}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad` times the derivative of the soft staircase."""
        return grad * _derivative(u, self.slope / 2)


def _derivative(u: Tensor, steepness: float) -> Tensor:
    from_threshold = u - torch.floor(u) - 0.5
    peak = steepness / 2 / math.tanh(steepness / 2)
    return peak * (1 - torch.tanh(steepness * from_threshold).square())
