"""StableQAT: the derivative of a smoothed rounding function, rotated by 45 degrees.

    gradient = grad * (1 - c cos(pi t)) / (1 + c cos(pi t)),    c = sqrt(2) pi amplitude,

with t = u - code. Along the diagonal, rounding is a triangle wave; the surrogate uses one damped
harmonic of it. The factor is smallest at grid points and 1 at thresholds.

Source: Chen et al., StableQAT: Stable Quantization-Aware Training at Ultra-Low Bitwidths, 2026,
arXiv:2601.19320.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding

LARGEST = 1 / (math.sqrt(2) * math.pi)
"""Amplitude at which the gradient at grid points would be 0, 0.2251."""


@dataclass(frozen=True, kw_only=True)
class StableQAT(NearestRounding):
    """Slows weights near grid points; near thresholds the gradient does not change.

    Raises:
        ValueError: `amplitude` is not from 0 to below 1/(sqrt(2) pi).

    Examples:
        >>> u = torch.tensor([0.3, 0.6], requires_grad=True)
        >>> grid = qs.Grid(3, signed=True)
        >>> y = qs.fake_quantize(u, torch.tensor(0.5), grid, estimator=qs.StableQAT())
        >>> y.sum().backward()
        >>> [round(each, 3) for each in u.grad.tolist()]
        [0.552, 0.14]
    """

    amplitude: float = 0.21
    """Amplitude of the harmonic: 0 is the STE; it must be below 1/(sqrt(2) pi) = 0.2251."""

    def __post_init__(self) -> None:
        if not 0 <= self.amplitude < LARGEST:
            raise ValueError(f"`amplitude` must be 0 to below 0.2251, got {self.amplitude}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad` times a factor from (1 - c)/(1 + c) on the grid to 1 at a threshold."""
        wave = self.amplitude / LARGEST * torch.cos(math.pi * (u - code))
        return grad * ((1 - wave) / (1 + wave))
