"""Stochastic rounding: up with the probability that makes the average of the code u itself.

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
    """Random in training, by noise that the quantizer draws; to nearest wherever else codes matter.

    So evaluation, tracker, cures, `strip` and export all see the nearest code. The gradient passes
    unchanged, and the backward sees the same noise as the forward.
    """

    needs_noise: ClassVar[bool] = True

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """One of the two neighbours by `noise`; without noise the nearest, ties to even."""
        if noise is None:
            return torch.round(u)
        below = torch.floor(u)
        return torch.where(noise < u - below, below + 1, below)

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` itself."""
        return grad
