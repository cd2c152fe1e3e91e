"""What every estimator is.

Rounding has derivative zero almost everywhere, so training needs a stand-in. An estimator holds
both halves: the rounding itself and the rule that turns the gradient of a code into a gradient of
the scaled value u = x/scale. Clipping and the gradient of the scale are not its business.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Estimator(ABC):
    """A rounding with a gradient. Implementations are frozen dataclasses of numbers, stateless.

    What a rounding needs besides u is handed to it, so that forward, backward, tracker and export
    come to the same codes: uniform noise in training, and the code as of the last optimizer step.
    """

    needs_noise: ClassVar[bool] = False
    """Whether training rounds by chance; all else that reads codes rounds to nearest."""
    needs_history: ClassVar[bool] = False
    """Whether a weight's rounding reads its code as of the last optimizer step."""

    @abstractmethod
    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Integers for scaled values `u`, not yet clipped: same shape and dtype.

        Args:
            u: Scaled values x/scale, any shape.
            previous: Codes as of the last optimizer step, the same shape, where `needs_history`
                and there are any: those of weights.
            noise: Numbers in [0, 1), the same shape, where `needs_noise` and in training.
        """

    @abstractmethod
    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Gradient with respect to `u` where `u` is inside the grid.

        Args:
            grad: Gradient with respect to the code, up to the factor scale; any shape.
            u: Scaled values x/scale, the same shape.
            code: The clipped integers that were emitted, the same shape.
        """


class NearestRounding(Estimator):
    """Those that differ from the straight-through estimator in the gradient alone."""

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Nearest integer, ties to even."""
        return torch.round(u)
