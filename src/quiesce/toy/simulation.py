"""Gradient descent on a `Regression`, with the quantizer, tracker and cures of quiesce."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quiesce.arithmetic.estimators import STE, Estimator
from quiesce.arithmetic.grid import Grid
from quiesce.cures import Cure
from quiesce.cures.control import Control
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.compile import CompileMode
from quiesce.quantization.compile import compile as compile_model
from quiesce.quantization.prepare import prepare, quantized_weights, quantizer_parameters
from quiesce.quantization.quantizer import FakeQuantizer
from quiesce.quantization.scheme import Scheme
from quiesce.toy.regression import Regression


@dataclass(frozen=True)
class Trace:
    """The training of the weights of a `Regression`; entry t is the state after t steps.

    The last entry is the state after the cures have finished.
    """

    latent: Tensor
    """Latent weights, shape (steps + 1, weights)."""
    code: Tensor
    """Codes of the forward pass in training mode: int8 (steps + 1, weights)."""
    frozen: Tensor
    """Whether the weights are frozen: bool (steps + 1, weights)."""
    gradient: Tensor
    """Gradient of loss and penalty in each step, shape (steps, weights)."""
    frequency: Tensor
    """Frequency of the tracker after the last step, shape (weights,)."""


def simulate(
    regression: Regression,
    *,
    lr: float,
    steps: int,
    start: Tensor | None = None,
    momentum: float = 0.0,
    estimator: Estimator = STE(),  # noqa: B008 (immutable)
    cures: Sequence[Cure] = (),
    tracker_momentum: float = 0.01,
    bits: int = 4,
    compile: CompileMode = "off",
) -> Trace:
    """Train a `Regression` by gradient descent.

    Args:
        regression: The regression.
        lr: Learning rate.
        steps: Optimizer steps, at least 1.
        start: First latent weights, shape (weights,); None for the targets.
        momentum: Momentum of SGD.
        estimator: Rounding and its gradient.
        cures: Cures such as `Dampening` and `Freezing`.
        tracker_momentum: Weight of the newest step in the oscillation frequency.
        bits: Bits of the signed grid, 2 to 8.
        compile: Compile mode of layer, tracker and cures, as in `quiesce.compile`.

    Returns:
        The states of all weights.

    Raises:
        ValueError: A target is not between two codes of the grid, or `steps` is below 1.
    """
    grid = Grid(bits, signed=True)
    _check(regression, grid, steps)
    start = regression.target if start is None else start
    layer = compile_model(_layer(regression, start, grid, estimator), compile)
    (weight,) = quantized_weights(layer)
    for scale in quantizer_parameters(layer):
        scale.requires_grad_(False)
    optimizer = torch.optim.SGD([weight.latent], lr=lr, momentum=momentum)
    tracker = OscillationTracker([weight], momentum=tracker_momentum, distance=None)
    control = Control(optimizer, [weight], tracker, cures, total=steps)

    x = regression.energy.sqrt().view(1, -1, 1)
    y = x * regression.target.view(1, -1, 1)
    latents, outputs, frozen, gradients = [], [], [], []
    for step in range(steps + 1):
        if step == steps:
            control.finish()
        output = layer(x)
        latents.append(weight.latent.detach().clone())
        outputs.append(output.detach())
        frozen.append(weight.frozen)
        if step == steps:
            break
        optimizer.zero_grad()
        (0.5 * (output - y).square().sum() + control.penalty()).backward()
        gradients.append(weight.latent.grad)
        optimizer.step()
    control.close()
    per_code = x * regression.scale.view(1, -1, 1)
    return Trace(
        latent=torch.stack(latents).flatten(1),
        code=(torch.stack(outputs).flatten(1) / per_code.flatten()).round().to(torch.int8),
        frozen=torch.stack(frozen).flatten(1),
        gradient=torch.stack(gradients).flatten(1),
        frequency=tracker.frequency(weight.name).flatten(),
    )


def _check(regression: Regression, grid: Grid, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    low, high = regression.lower_code.min(), regression.lower_code.max() + 1
    if low <= grid.quant_min or high >= grid.quant_max:
        raise ValueError(
            f"targets must lie between the codes {grid.quant_min + 1} and {grid.quant_max - 1} of "
            f"{grid}, got codes {low:.0f} to {high:.0f}; take more bits or a larger scale"
        )


def _layer(regression: Regression, start: Tensor, grid: Grid, estimator: Estimator) -> nn.Module:
    """Return a prepared depth-wise layer with one weight and one scale per regression."""
    count = len(regression.target)
    conv = nn.Conv1d(count, count, 1, groups=count, bias=False, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(start.view(-1, 1, 1))
    scheme = Scheme(
        weight_bits=grid.bits,
        act_bits=None,
        first_last_bits=None,
        per_channel=True,
        estimator=estimator,
    )
    model = prepare(nn.Sequential(conv), scheme, conv.weight.new_zeros(1, count, 1)).double()
    for quantizer in model.modules():
        if isinstance(quantizer, FakeQuantizer):
            quantizer.set_grid(grid, regression.scale)
            quantizer.remember(conv.weight)
    return model
