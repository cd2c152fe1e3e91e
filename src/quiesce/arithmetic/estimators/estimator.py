"""The interface of estimators.

The derivative of rounding is zero almost everywhere, so training needs a replacement. An estimator
defines the rounding, and the rule that maps the gradient of a code to a gradient of the scaled
value u = x/scale. It does not handle clipping or the gradient of the scale.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Estimator(ABC):
    """Rounding with a gradient; implementations are frozen dataclasses of numbers without state.

    All inputs of rounding are arguments, so that forward pass, backward pass, tracker and export
    compute the same codes.

    Examples:
        >>> class Plain(qs.Estimator):
        ...     def round(self, u, previous=None, noise=None):
        ...         return torch.round(u)
        ...
        ...     def gradient(self, grad, u, code):
        ...         return grad
        >>> Plain().round(torch.tensor([0.6])).item()
        1.0
    """

    needs_noise: ClassVar[bool] = False
    """Whether rounding is random in training; outside training it is to nearest."""
    needs_history: ClassVar[bool] = False
    """Whether rounding reads the code of the weight after the last optimizer step."""
    needs_average: ClassVar[bool] = False
    """Whether the tracker decides the codes by an average of past latents, with `choose`. It then
    keeps this average, whose old value has the weight `beta` of the estimator."""

    @abstractmethod
    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return integers for scaled values, not yet clipped, in their shape and dtype.

        Args:
            u: Scaled values x/scale, any shape.
            previous: Codes after the last optimizer step, of the same shape, or None. Only for
                weights, if `needs_history`.
            noise: Random numbers in [0, 1), of the same shape, or None. Only in training, if
                `needs_noise`.
        """

    def choose(self, u: Tensor, average: Tensor) -> Tensor:
        """Return integers for scaled values in the pass of the tracker, if `needs_average`.

        Args:
            u: Scaled values x/scale, any shape.
            average: Average of past latents over the scale of now, of the same shape.
        """
        return self.round(u)

    @abstractmethod
    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return the gradient with respect to `u`, for values inside the grid.

        Args:
            grad: Gradient with respect to the code, except for the factor scale; any shape.
            u: Scaled values x/scale, of the same shape.
            code: The clipped integers of the forward pass, of the same shape.
        """


class NearestRounding(Estimator):
    """An estimator that rounds to nearest."""

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Return the nearest integers, ties to even."""
        return torch.round(u)
