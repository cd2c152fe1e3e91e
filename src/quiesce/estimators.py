"""How rounding is done forward, and what gradient it is given backward.

Rounding has derivative zero almost everywhere, so training needs a stand-in. An estimator holds
both halves: the rounding itself and the rule that turns the gradient of a code into a gradient of
the scaled value u = x/scale. Clipping and the gradient of the scale are not its business.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Estimator(ABC):
    """A rounding with a gradient. Implementations are frozen dataclasses of numbers, stateless."""

    @abstractmethod
    def round(self, u: Tensor) -> Tensor:
        """Integers for scaled values `u`, not yet clipped: same shape and dtype."""

    @abstractmethod
    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Gradient with respect to `u` where `u` is inside the grid.

        Args:
            grad: Gradient with respect to the code, up to the factor scale; any shape.
            u: Scaled values x/scale, the same shape.
            code: The clipped integers that were emitted, the same shape.
        """


@dataclass(frozen=True)
class STE(Estimator):
    """Straight-through estimator: round to nearest, ties to even; the gradient passes unchanged.

    Source: Bengio, Léonard, Courville, arXiv:1308.3432.
    """

    def round(self, u: Tensor) -> Tensor:
        """Nearest integer, ties to even."""
        return torch.round(u)

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """`grad` itself."""
        return grad
