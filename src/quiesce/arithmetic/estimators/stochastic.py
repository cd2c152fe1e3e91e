"""Stochastic rounding: rounds up with a probability such that the expected code is u.

    code = floor(u) + 1 with probability u - floor(u), else floor(u)

Source: Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015, arXiv:1502.02551.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import Estimator


@dataclass(frozen=True)
class StochasticRounding(Estimator):
    """Rounds at random in training, with noise from the quantizer, and otherwise to nearest.

    Evaluation, tracker, cures, `strip` and export therefore use the nearest code. The gradient does
    not change, and the backward pass uses the noise of the forward pass.

    Examples:
        >>> u, noise = torch.tensor([0.3, 0.3]), torch.tensor([0.1, 0.9])
        >>> qs.StochasticRounding().round(u, noise=noise).tolist()
        [1.0, 0.0]
    """

    needs_noise: ClassVar[bool] = True

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return one of the two nearest integers, chosen by `noise`; without noise, the nearest."""
        if noise is None:
            return torch.round(u)
        below = torch.floor(u)
        return torch.where(noise < u - below, below + 1, below)

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad`."""
        return grad
