"""The one-weight regression: where oscillation comes from, with laws to hold the library against.

Minimise L(w) = E[(x w* - x q(w))^2 / 2] over one latent weight w by gradient descent with the
straight-through estimator: the gradient is E (q(w) - w*), E = E[x^2] the energy of the input. The
target w* lies between two grid points, l <= w* <= l + s; no code reaches it, so the gradient never
vanishes, it only changes sign at the threshold between the two, and the latent circles there.

The setting is the toy regression of Nagel et al., Overcoming Oscillations in QAT, ICML 2022,
arXiv:2203.11086; the laws are derived for quiesce. They hold for one weight with exact gradients,
a fixed scale, no clipping and lr * E <= 1/2; docs/methods.md gives all of them by number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quiesce.control import Control
from quiesce.cures import Cure
from quiesce.grid import Grid
from quiesce.prepare import prepare, quantized_weights
from quiesce.quantizer import FakeQuantizer
from quiesce.scheme import Scheme
from quiesce.tracking import OscillationTracker


class Regression:
    """Independent one-weight regressions, side by side; everything has shape (weights,), float64.

    Args:
        target: w*, the weight that would fit the data exactly.
        scale: s, floats per code, above 0.
        energy: E, mean square of the input, above 0.

    Raises:
        ValueError: A number is not finite, or `scale` or `energy` is not above 0.
    """

    def __init__(
        self, target: Tensor | float, scale: Tensor | float = 1.0, energy: Tensor | float = 1.0
    ) -> None:
        given = [torch.as_tensor(v, dtype=torch.float64) for v in (target, scale, energy)]
        self.target, self.scale, self.energy = torch.broadcast_tensors(
            *map(torch.atleast_1d, given)
        )
        if not bool(self.target.isfinite().all()):
            raise ValueError("`target` must hold finite numbers")
        for name in ("scale", "energy"):
            value: Tensor = getattr(self, name)
            if not bool((value.isfinite() & (value > 0)).all()):
                raise ValueError(f"`{name}` must be above 0, got {value.min().item()}")

    @property
    def lower_code(self) -> Tensor:
        """Code of the grid point l at or below the target."""
        return (self.target / self.scale).floor()

    @property
    def share(self) -> Tensor:
        """Place r of the target between its grid points, 0 to 1.

        Law 1: it is also the share of steps that the weight spends on the upper one, so that the
        average of q is the target.
        """
        return self.target / self.scale - self.lower_code

    @property
    def nearest_code(self) -> Tensor:
        """Code of the grid point nearest to the target.

        Law 9: it is what the average of the codes rounds to. The average of the latents rounds to
        either neighbour: it sits at the threshold.
        """
        return (self.target / self.scale).round()

    @property
    def threshold(self) -> Tensor:
        """The latent at which the code changes, l + s/2."""
        return (self.lower_code + 0.5) * self.scale

    def amplitude(self, lr: float) -> Tensor:
        """Law 3: the span of latents between which plain gradient descent circles, lr * E * s.

        Args:
            lr: Learning rate; lr * E at most 1/2.

        Returns:
            The span in units of the latent. The frequency does not depend on the learning rate.
        """
        return lr * self.energy * self.scale

    @property
    def critical_strength(self) -> Tensor:
        """Law 6: the strength of dampening above which the weight rests, E * d/s.

        With d/s the distance of the target to its nearest grid point, in steps. Between it and
        E * (1 - d/s) the weight rests on the nearest grid point from wherever it starts; above
        that, on the one that it starts nearer to.
        """
        return self.energy * self._distance

    def frequency(self, strength: Tensor | float = 0.0) -> Tensor:
        """Laws 2 and 6: oscillations per optimizer step, which are all its flips but the first.

        Without dampening 2 d/s, whatever the learning rate. With dampening
        2 (E d/s - strength) / (E - 2 strength) in the limit of small lr * E, and 0 above the
        critical strength.

        Args:
            strength: Factor of the dampening sum (w - q)^2 in the loss, at least 0.

        Returns:
            The frequency, 0 to 1.
        """
        excess = (self.critical_strength - strength).clamp_min(0)
        return torch.where(excess > 0, 2 * excess / (self.energy - 2 * strength), 0.0)

    @property
    def _distance(self) -> Tensor:
        return torch.minimum(self.share, 1 - self.share)


def freeze_latency(frequency: float, momentum: float, threshold: float) -> float:
    """Law 10: optimizer steps until a weight that starts to oscillate is frozen.

    Args:
        frequency: Oscillations per step from then on, 0 to 1.
        momentum: Of the tracker's average, above 0 and below 1.
        threshold: Average frequency above which a weight is frozen, above 0.

    Returns:
        ln(1 - threshold/frequency) / ln(1 - momentum), or inf where the average never gets there.
    """
    if frequency <= threshold:
        return math.inf
    return math.log1p(-threshold / frequency) / math.log1p(-momentum)


@dataclass(frozen=True)
class Trace:
    """What happened to the weights of a `Regression`; entry t is as it was after t steps."""

    latent: Tensor
    """Latent weights, shape (steps + 1, weights)."""
    code: Tensor
    """Codes that the forward uses, shape (steps + 1, weights)."""
    frozen: Tensor
    """Which codes are pinned: bool, shape (steps + 1, weights)."""
    frequency: Tensor
    """The tracker's frequency after the last step, oscillations per step, shape (weights,)."""


def simulate(
    regression: Regression,
    *,
    lr: float,
    steps: int,
    start: Tensor | None = None,
    momentum: float = 0.0,
    cures: Sequence[Cure] = (),
    tracker_momentum: float = 0.01,
    bits: int = 4,
) -> Trace:
    """Train a `Regression` by gradient descent, with the quantizer, tracker and cures of quiesce.

    Args:
        regression: What to fit.
        lr: Learning rate.
        steps: Optimizer steps, at least 1.
        start: First latents, shape (weights,); the targets where it is None.
        momentum: Of the gradient descent.
        cures: Such as `Dampening` and `Freezing`.
        tracker_momentum: Weight of the newest step in the oscillation frequency.
        bits: Width of the signed grid, 2 to 8.

    Returns:
        The way of all weights.

    Raises:
        ValueError: A target is not between two codes of the grid, or `steps` is below 1.
    """
    grid = Grid(bits, signed=True)
    _check(regression, grid, steps)
    layer = _layer(regression, regression.target if start is None else start, grid)
    (weight,) = quantized_weights(layer)
    optimizer = torch.optim.SGD([weight.latent], lr=lr, momentum=momentum)
    tracker = OscillationTracker([weight], momentum=tracker_momentum)
    control = Control(optimizer, [weight], tracker, cures)

    x = regression.energy.sqrt().view(1, -1, 1)
    y = x * regression.target.view(1, -1, 1)
    way = [(weight.latent.detach().clone(), weight.codes(), weight.frozen)]
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (layer(x) - y).square().sum() + control.penalty()).backward()
        optimizer.step()
        way.append((weight.latent.detach().clone(), weight.codes(), weight.frozen))
    control.close()
    latent, code, frozen = (torch.stack(each).flatten(1) for each in zip(*way, strict=True))
    return Trace(latent, code, frozen, tracker.frequency(weight.name).flatten())


def _check(regression: Regression, grid: Grid, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    low, high = regression.lower_code.min(), regression.lower_code.max() + 1
    if low <= grid.quant_min or high >= grid.quant_max:
        raise ValueError(
            f"targets must lie between the codes {grid.quant_min + 1} and {grid.quant_max - 1} of "
            f"{grid}, got codes {low:.0f} to {high:.0f}; take more bits or a larger scale"
        )


def _layer(regression: Regression, start: Tensor, grid: Grid) -> nn.Module:
    """A prepared depth-wise layer with one weight, and one scale, for each regression."""
    count = len(regression.target)
    conv = nn.Conv1d(count, count, 1, groups=count, bias=False, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(start.view(-1, 1, 1))
    scheme = Scheme(weight_bits=grid.bits, act_bits=None, first_last_bits=None, per_channel=True)
    model = prepare(nn.Sequential(conv), scheme, conv.weight.new_zeros(1, count, 1)).double()
    for quantizer in model.modules():
        if isinstance(quantizer, FakeQuantizer):
            quantizer.set_grid(grid, regression.scale)
    return model
