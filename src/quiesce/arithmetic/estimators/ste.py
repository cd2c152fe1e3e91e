"""The straight-through estimator: the gradient passes as if there were no rounding.

Source: Bengio, Léonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons,
arXiv:1308.3432.
"""

from dataclasses import dataclass

from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding


@dataclass(frozen=True)
class STE(NearestRounding):
    """Rounds to nearest, ties to even; the gradient does not change.

    Examples:
        >>> u = torch.tensor([0.3, 0.6], requires_grad=True)
        >>> grid = qs.Grid(3, signed=True)
        >>> y = qs.fake_quantize(u, torch.tensor(0.5), grid, estimator=qs.STE())
        >>> y.sum().backward()
        >>> [round(each, 3) for each in u.grad.tolist()]
        [1.0, 1.0]
    """

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad`."""
        return grad
