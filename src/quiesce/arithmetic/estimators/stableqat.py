"""StableQAT's surrogate: the derivative of a smoothed rounding turned by 45 degrees.

    gradient = grad * (1 - c cos(pi t)) / (1 + c cos(pi t)),    c = sqrt(2) pi amplitude,

with t = u - code. Seen along the diagonal, rounding is a triangle wave; the surrogate keeps one
harmonic of it, damped. It is smallest on the grid points and 1 at the thresholds.

Source: Chen et al., StableQAT: Stable Quantization-Aware Training at Ultra-Low Bitwidths, 2026,
arXiv:2601.19320.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding

LARGEST = 1 / (math.sqrt(2) * math.pi)
"""Amplitude at which the gradient on grid points would be 0, 0.2251."""


@dataclass(frozen=True, kw_only=True)
class StableQAT(NearestRounding):
    """Slows weights near grid points and lets them go at full speed near thresholds.

    Raises:
        ValueError: `amplitude` is not from 0 to below 1/(sqrt(2) pi).
    """

    amplitude: float = 0.21
    """Of the harmonic: 0 is the STE, and it must stay below 1/(sqrt(2) pi) = 0.2251."""

    def __post_init__(self) -> None:
        if not 0 <= self.amplitude < LARGEST:
            raise ValueError(f"`amplitude` must be 0 to below 0.2251, got {self.amplitude}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` times (1 - c)/(1 + c) on the grid to 1 at a threshold."""
        wave = self.amplitude / LARGEST * torch.cos(math.pi * (u - code))
        return grad * ((1 - wave) / (1 + wave))
