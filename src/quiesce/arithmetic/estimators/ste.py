"""The straight-through estimator: the gradient passes as if there were no rounding.

Source: Bengio, Léonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons,
arXiv:1308.3432.
"""

from dataclasses import dataclass

from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding


@dataclass(frozen=True)
class STE(NearestRounding):
    """Rounds to nearest, ties to even; the gradient does not change."""

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad`."""
        return grad
