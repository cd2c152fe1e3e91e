"""The one-weight regression, which explains oscillation and gives laws to test the library against.

Gradient descent with the straight-through estimator minimizes L(w) = E[(x w* - x q(w))^2 / 2] over
one latent weight w. The gradient is E (q(w) - w*), with E = E[x^2] the energy of the input. The
target w* lies between two grid points, l <= w* <= l + s, so the gradient never vanishes: it changes
sign at the threshold between them, and the latent weight oscillates there.

The setting is the toy regression of Nagel et al., Overcoming Oscillations in QAT, ICML 2022,
arXiv:2203.11086; the laws are derived for quiesce. They hold for one weight with exact gradients, a
fixed scale, no clipping and lr * E <= 1/2; docs/methods.md lists them by number.
"""

import math

import torch
from torch import Tensor

_NO_CONTRACTION = 5e-4


class Regression:
    """Independent one-weight regressions; all tensors are float64 (weights,).

    Args:
        target: w*, the weight that fits the data exactly.
        scale: s, the grid step, above 0.
        energy: E, the mean square of the input, above 0.

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
        """Position r of the target between its grid points, 0 to 1.

        Law 1: this is also the share of steps on the upper grid point, so the average of q is the
        target.
        """
        return self.target / self.scale - self.lower_code

    @property
    def nearest_code(self) -> Tensor:
        """Code of the grid point nearest to the target.

        Law 9: the average of the codes rounds to it. The average of the latent weights is at the
        threshold, and may round to either neighbour.
        """
        return (self.target / self.scale).round()

    @property
    def threshold(self) -> Tensor:
        """The latent weight at which the code changes, l + s/2."""
        return (self.lower_code + 0.5) * self.scale

    def amplitude(self, lr: float) -> Tensor:
        """Law 3: the range of the latent weight under plain gradient descent, lr * E * s.

        Args:
            lr: Learning rate; lr * E is at most 1/2.

        Returns:
            The range in units of the latent weight. The frequency does not depend on the learning
            rate.
        """
        return lr * self.energy * self.scale

    @property
    def critical_strength(self) -> Tensor:
        """Law 6: the strength of dampening above which oscillation stops, E * d/s.

        d/s is the distance of the target to its nearest grid point, in steps. Between this strength
        and E * (1 - d/s) the weight stops at the nearest grid point from any start; above that, at
        the one that is nearer to its start.
        """
        return self.energy * torch.minimum(self.share, 1 - self.share)

    def frequency(self, strength: Tensor | float = 0.0, lr: float | None = None) -> Tensor:
        """Laws 2 and 6: oscillations per optimizer step; every flip but the first is one.

        Without dampening this is 2 d/s for any learning rate. With dampening it is 2 (E d/s -
        strength) / (E - 2 strength) in the limit of small lr * E, and 0 above the critical
        strength. At a given learning rate the latent weight follows a contracted rotation, whose
        frequency locks to a rational number near that.

        Args:
            strength: Factor of the dampening sum (w - q)^2 in the loss, at least 0.
            lr: Learning rate, with lr * E at most 1/2; None for the limit of small ones.

        Returns:
            The frequency, 0 to 1.
        """
        excess = (self.critical_strength - strength).clamp_min(0)
        upper = (self.share - strength / self.energy) / (1 - 2 * strength / self.energy)
        if lr is not None:
            upper = _locked_share(upper, 2 * lr * strength + 0 * self.energy)
        return torch.where(excess > 0, 2 * torch.minimum(upper, 1 - upper), 0.0)

    def hysteresis_frequency(self, lr: float, width: float) -> Tensor:
        """Law 7: oscillations per step if codes change only outside a dead band.

        2 lr E r (1-r) / (width + lr*E/2): between two flips the latent weight crosses the band and
        leaves it on both sides by at most lr*E grid steps, by half of that on average. The exact
        value depends on how the step divides the band; the relative error is at most lr*E /
        (2*width).

        Args:
            lr: Learning rate; lr * E is at most 1/2.
            width: Width of the dead band in grid steps, above 0 and at most 1.
        """
        rate = lr * self.energy
        return 2 * rate * self.share * (1 - self.share) / (width + rate / 2)

    def random_frequency(self, lr: float) -> Tensor:
        """Law 11: oscillations per step with stochastic rounding, (2 + lr*E) r (1-r).

        The latent weight stays near the target, with variance lr*E r (1-r)/2 in squared grid steps,
        so the codes are almost independent, with probability r.

        Args:
            lr: Learning rate; lr * E must be well below r and 1-r.
        """
        return (2 + lr * self.energy) * self.share * (1 - self.share)

    def reset_frequency(
        self, lr: float, ratio: float, period: int, *, nearest: bool = True
    ) -> Tensor:
        """Law 13: oscillations per step if the weight is reset to the middle of its bin.

        The distance ratio of a weight that oscillates is 1 / (lr E max(r, 1-r)). If it reaches the
        limit, the weight is reset on the grid point that it has, at a distance x from the target,
        and comes back to the threshold after s / (2 lr E x) steps. Then it oscillates until the
        next reset.

        Args:
            lr: Learning rate; lr * E is at most 1/2.
            ratio: Distance ratio from which a weight is reset.
            period: Optimizer steps from one reset to the next.
            nearest: Whether every reset finds the weight on its nearest grid point, where it is
                most of the time, or on the other one.
        """
        rate = lr * self.energy
        near = torch.minimum(self.share, 1 - self.share)
        back = 1 / (2 * rate * (near if nearest else 1 - near))
        cycle = period * (back / period).ceil()
        reset = ratio * rate * torch.maximum(self.share, 1 - self.share) <= 1
        return 2 * near * torch.where(reset, 1 - back / cycle, 1.0)

    def ramped_frequency(
        self, lr: float, alpha: float, beta: int, period: int, window: int
    ) -> Tensor:
        """Law 14: oscillations per step if an oscillating weight moves in every N-th step only.

        N = 1 + beta floor(R / alpha), with the distance ratio R = 1 / (lr E max(r, 1-r)) of a
        weight that oscillates. An update is N times as large, so the amplitude is that of the
        learning rate N lr, and the frequency per update is that of law 2. In the window of every
        period the weight moves in every step, and first comes back to the threshold, which takes up
        to N steps. The law holds for N well below the window; for larger N the measured R is lower.

        Args:
            lr: Learning rate; N * lr * E * max(r, 1-r) is below 1.
            alpha: Distance ratio for each `beta` steps more.
            beta: Steps by which the interval grows.
            period: Optimizer steps from one window to the next.
            window: Steps in which the ratio is measured.
        """
        ratio = 1 / (lr * self.energy * torch.maximum(self.share, 1 - self.share))
        interval = 1 + beta * (ratio / alpha).floor()
        updates = window + (period - window) / interval
        return self.frequency() * updates / period

    def annealed_frequency(self, lr: float, boundary_range: float) -> Tensor:
        """Law 15: oscillations per step if only a weight near its threshold is updated.

        An update of an oscillating weight is lr E r or lr E (1-r) grid steps. If the larger one is
        above the range, the weight leaves it sooner or later, and stops there. If not, it never
        leaves it, and the frequency is that of law 2.

        Args:
            lr: Learning rate; lr * E is at most 1/2.
            boundary_range: Largest distance from the threshold at which a weight is updated, in
                grid steps.
        """
        larger = lr * self.energy * torch.maximum(self.share, 1 - self.share)
        return torch.where(larger > boundary_range, 0.0, self.frequency())


def _locked_share(drift: Tensor, contraction: Tensor) -> Tensor:
    """Return the share of steps on the upper level if each step also contracts the distance.

    Around the threshold the latent weight, in units of one jump, follows y <- (1 - k) y + drift -
    (1 on the upper level, else 0). The levels follow a rotation by some share rho. At the
    threshold, y = 0 gives the drift for rho: the sum over j >= 1 of k (1 - k)^(j-1) (ceil((j+1)
    rho) - ceil(j rho)), which increases with rho.

    Args:
        drift: The share without contraction, 0 to 1, shape (weights,).
        contraction: k, 0 to below 1, shape (weights,). The share differs from the drift by at most
            k, so a negligible k is ignored.
    """
    if bool((contraction < _NO_CONTRACTION).any()):
        return drift
    low, high = torch.zeros_like(drift), torch.ones_like(drift)
    terms = math.ceil(40 / contraction.min().item())  # the rest is below exp(-40)
    j = torch.arange(1, terms + 2, dtype=drift.dtype)[:, None]
    weight = contraction * (1 - contraction) ** (j[:-1] - 1)
    for _ in range(50):  # bisection to the precision of the drift
        middle = (low + high) / 2
        below = (weight * (j * middle).ceil().diff(dim=0)).sum(0) <= drift
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def freeze_latency(frequency: float, momentum: float, threshold: float) -> float:
    """Law 10: optimizer steps until a weight that starts to oscillate is frozen.

    Args:
        frequency: Oscillations per step, 0 to 1.
        momentum: Momentum of the tracker, above 0 and below 1.
        threshold: Average frequency above which a weight is frozen, above 0.

    Returns:
        ln(1 - threshold/frequency) / ln(1 - momentum), or inf if the average stays below the
        threshold.
    """
    if frequency <= threshold:
        return math.inf
    return math.log1p(-threshold / frequency) / math.log1p(-momentum)
