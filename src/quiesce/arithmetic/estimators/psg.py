"""Position-based scaled gradient: a weight moves in proportion to its distance from the grid.

    gradient = grad * scaling * |u - code|

Source: Kim, Yoo, Kwak, Position-based Scaled Gradient for Model Quantization and Pruning, NeurIPS
2020, arXiv:2005.11035. Here the distance is in grid steps, in the paper in units of the weight, so
multiply its factor by the scale. The paper trains a float network and quantizes it afterwards; here
the forward pass is quantized.
"""

from dataclasses import dataclass

from torch import Tensor

from quiesce.arithmetic.estimators.estimator import NearestRounding


@dataclass(frozen=True, kw_only=True)
class PSG(NearestRounding):
    """Scales each gradient by the rounding error; on a grid point the gradient is 0.

    Raises:
        ValueError: `scaling` is not above 0 and at most 1000.

    Examples:
        >>> u = torch.tensor([0.3, 0.6], requires_grad=True)
        >>> grid = qs.Grid(3, signed=True)
        >>> y = qs.fake_quantize(u, torch.tensor(0.5), grid, estimator=qs.PSG())
        >>> y.sum().backward()
        >>> [round(each, 3) for each in u.grad.tolist()]
        [0.8, 0.4]
    """

    scaling: float = 2.0
    """Factor per grid step of distance, above 0 and at most 1000; with 2, gradients at a threshold
    do not change."""

    def __post_init__(self) -> None:
        if not 0 < self.scaling <= 1000:
            raise ValueError(f"`scaling` must be above 0 and at most 1000, got {self.scaling}")

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        """Return `grad` times a factor from 0 on the grid to scaling/2 at a threshold."""
        return grad * (self.scaling * (u - code).abs())
