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

import torch
from torch import Tensor

_NO_CONTRACTION = 5e-4


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

    def frequency(self, strength: Tensor | float = 0.0, lr: float | None = None) -> Tensor:
        """Laws 2 and 6: oscillations per optimizer step, which are all its flips but the first.

        Without dampening 2 d/s, whatever the learning rate. With dampening
        2 (E d/s - strength) / (E - 2 strength) in the limit of small lr * E, and 0 above the
        critical strength. At a given learning rate the latent follows a contracted rotation, and
        the frequency locks to rational numbers near that one.

        Args:
            strength: Factor of the dampening sum (w - q)^2 in the loss, at least 0.
            lr: Learning rate, lr * E at most 1/2; None for the limit of small ones.

        Returns:
            The frequency, 0 to 1.
        """
        excess = (self.critical_strength - strength).clamp_min(0)
        upper = (self.share - strength / self.energy) / (1 - 2 * strength / self.energy)
        if lr is not None:
            upper = _locked_share(upper, 2 * lr * strength + 0 * self.energy)
        return torch.where(excess > 0, 2 * torch.minimum(upper, 1 - upper), 0.0)

    def hysteresis_frequency(self, lr: float, width: float) -> Tensor:
        """Law 7: oscillations per step where codes change only beyond a dead band.

        2 lr E r (1-r) / (width + lr*E/2), since between two flips the latent crosses the band and
        overshoots it on both sides, by lr*E steps of the grid at most and half of that on average.
        How much exactly depends on how the step divides the band, so the law is off by at most a
        share of lr*E / (2*width).

        Args:
            lr: Learning rate; lr * E at most 1/2.
            width: Of the dead band, in steps of the grid, above 0 and at most 1.
        """
        rate = lr * self.energy
        return 2 * rate * self.share * (1 - self.share) / (width + rate / 2)

    def random_frequency(self, lr: float) -> Tensor:
        """Law 11: oscillations per step under stochastic rounding, (2 + lr*E) r (1-r).

        The latent settles around the target, with variance lr*E r (1-r)/2 in steps of the grid
        squared; so the codes are nearly independent draws with chance r.

        Args:
            lr: Learning rate; lr * E well below r and 1-r, so that the latent stays between the
                two grid points.
        """
        return (2 + lr * self.energy) * self.share * (1 - self.share)

    @property
    def _distance(self) -> Tensor:
        return torch.minimum(self.share, 1 - self.share)


def _locked_share(drift: Tensor, contraction: Tensor) -> Tensor:
    """Share of steps on the upper level where every step also shrinks the latent's distance.

    Around the threshold the latent, in units of one jump, obeys
    y <- (1 - k) y + drift - (1 on the upper level, else 0). The order of levels is that of a
    rotation by some share rho, and at the threshold itself y = 0 says what the drift must be:
    the sum over j >= 1 of k (1 - k)^(j-1) (ceil((j+1) rho) - ceil(j rho)), which rises with rho.

    Args:
        drift: What rho would be without contraction, 0 to 1, shape (weights,).
        contraction: k, 0 to below 1, shape (weights,). The share differs from the drift by k at
            most, so a negligible k is not followed up.
    """
    if bool((contraction < _NO_CONTRACTION).any()):
        return drift
    low, high = torch.zeros_like(drift), torch.ones_like(drift)
    terms = math.ceil(40 / contraction.min().item())  # what is left out is below exp(-40)
    j = torch.arange(1, terms + 2, dtype=drift.dtype)[:, None]
    weight = contraction * (1 - contraction) ** (j[:-1] - 1)
    for _ in range(50):  # halvings: to the precision of the drift
        middle = (low + high) / 2
        below = (weight * (j * middle).ceil().diff(dim=0)).sum(0) <= drift
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


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
