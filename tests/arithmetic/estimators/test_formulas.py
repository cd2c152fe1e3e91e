"""Each estimator against its formula, at points worked out by hand, and its numbers' limits."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import quiesce as qs

GRID = qs.Grid(4, signed=True)
ONE = torch.ones(())


def factor(estimator: qs.Estimator, u: Tensor, grad: float = 1.0) -> Tensor:
    """Gradient at `u` for a gradient of 1, or of `grad` and divided by it."""
    return estimator.gradient(torch.full_like(u, grad), u, u.round()) / grad


@dataclass(frozen=True)
class FloorThatHalves(qs.Estimator):
    """Rounds down, and halves the gradient: nothing like the straight-through estimator."""

    def round(
        self, u: Tensor, previous: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        return u.floor()

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        return grad * 0.5 + 0 * (u - code)


def test_another_estimator_decides_codes_and_gradient() -> None:
    x = torch.tensor([0.9, 1.9, -0.1, 100.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    y = qs.fake_quantize(x, scale, GRID, estimator=FloorThatHalves())
    y.sum().backward()
    assert y.tolist() == [0, 1, -1, 7]
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.5, 0.5, 0]  # clipping is not the estimator's business
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(-0.9 - 0.9 - 0.9 + 7)


def test_ste_passes_the_gradient_unchanged() -> None:
    u, grad = torch.randn(2, 100)
    assert torch.equal(qs.STE().gradient(grad, u, u.round()), grad)


def test_ewgs_gives_more_where_a_step_brings_u_nearer_to_its_code() -> None:
    u = torch.tensor([2.25, 1.75, 2.0])
    assert factor(qs.EWGS(delta=0.4), u).tolist() == pytest.approx([1.1, 0.9, 1.0])
    assert factor(qs.EWGS(delta=0.4), u, grad=-3.0).tolist() == pytest.approx([0.9, 1.1, 1.0])


def test_dsq_is_the_derivative_of_its_soft_staircase() -> None:
    alpha, u = 0.4, torch.linspace(-2.9, 2.9, 59, dtype=torch.float64, requires_grad=True)
    steep, middle = math.log(2 / alpha - 1), u.detach().floor() + 0.5
    soft = middle + torch.tanh(steep * (u - middle)) / (1 - alpha) / 2
    (expected,) = torch.autograd.grad(soft.sum(), u)
    torch.testing.assert_close(factor(qs.DSQ(alpha=alpha), u.detach()), expected)


def test_stacked_sigmoid_is_the_derivative_of_scaled_logistics() -> None:
    slope, u = 3.0, torch.linspace(-2.9, 2.9, 59, dtype=torch.float64, requires_grad=True)
    logistic = torch.sigmoid(slope * (u - u.detach().floor() - 0.5))
    height = math.tanh(slope / 4)  # of one step, from end to end
    (expected,) = torch.autograd.grad((logistic / height).sum(), u)
    torch.testing.assert_close(factor(qs.StackedSigmoid(slope=slope), u.detach()), expected)


@pytest.mark.parametrize(
    "estimator", [qs.DSQ(alpha=0.05), qs.DSQ(), qs.StackedSigmoid(), qs.StackedSigmoid(slope=9.0)]
)
def test_a_soft_staircase_meets_every_grid_point(estimator: qs.Estimator) -> None:
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000  # midpoint rule: error 1e-7
    assert factor(estimator, u).mean().item() == pytest.approx(1, abs=1e-6)


def test_dsq_and_the_stacked_sigmoid_are_one_family() -> None:
    u = torch.randn(100, dtype=torch.float64)
    sigmoid = qs.StackedSigmoid(slope=2 * math.log(2 / 0.4 - 1))
    torch.testing.assert_close(factor(qs.DSQ(alpha=0.4), u), factor(sigmoid, u))


def test_psg_is_proportional_to_the_distance_from_the_grid() -> None:
    u = torch.tensor([2.0, 2.25, 1.75, 2.5])
    assert factor(qs.PSG(scaling=2.0), u).tolist() == [0, 0.5, 0.5, 1]


def test_stableqat_is_smallest_on_the_grid_and_one_at_a_threshold() -> None:
    c = math.sqrt(2) * math.pi * 0.21
    u = torch.tensor([3.0, 3.5, 3.25], dtype=torch.float64)
    quarter = c * math.sqrt(0.5)
    expected = [(1 - c) / (1 + c), 1, (1 - quarter) / (1 + quarter)]
    assert factor(qs.StableQAT(), u).tolist() == pytest.approx(expected)
    assert expected[0] == pytest.approx(0.035, abs=5e-4)


@pytest.mark.parametrize(
    "estimator", [qs.EWGS(delta=0), qs.StableQAT(amplitude=0), qs.DSQ(alpha=1 - 1e-4)]
)
def test_at_one_end_of_their_range_they_are_the_ste(estimator: qs.Estimator) -> None:
    out = factor(estimator, torch.randn(100, dtype=torch.float64))
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=1e-6)


def test_stochastic_rounding_goes_up_where_the_noise_is_below_the_fraction() -> None:
    u, noise = torch.tensor([0.3, 0.3, -0.3, 5.0]), torch.tensor([0.2, 0.4, 0.6, 0.99999994])
    assert qs.StochasticRounding().round(u, noise=noise).tolist() == [1, 0, 0, 5]


def test_stochastic_rounding_is_right_on_average() -> None:
    count = 100_000
    u = torch.full((count,), 2.3)
    mean = qs.StochasticRounding().round(u, noise=torch.rand(count)).mean().item()
    assert mean == pytest.approx(2.3, abs=5 * math.sqrt(0.3 * 0.7 / count))


def test_hysteresis_keeps_the_previous_code_in_its_band_and_else_rounds() -> None:
    u = torch.tensor([2.74, 2.76, 1.26, 1.24, 6.6])
    previous = torch.full((5,), 2)
    assert qs.Hysteresis(width=0.5).round(u, previous).tolist() == [2, 3, 2, 1, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qs.EWGS(delta=-0.1), "`delta` must be 0 to below 2, got -0.1"),
        (lambda: qs.EWGS(delta=2.0), "`delta` must be 0 to below 2, got 2.0"),
        (lambda: qs.DSQ(alpha=0.0), "`alpha` must be above 0 and below 1, got 0.0"),
        (lambda: qs.DSQ(alpha=math.nan), "`alpha` must be above 0 and below 1, got nan"),
        (lambda: qs.StackedSigmoid(slope=0.0), "`slope` must be above 0 and at most 100, got 0.0"),
        (lambda: qs.PSG(scaling=math.inf), "`scaling` must be above 0 and at most 1000, got inf"),
        (lambda: qs.StableQAT(amplitude=0.23), "`amplitude` must be 0 to below 0.2251, got 0.23"),
        (lambda: qs.Hysteresis(width=0.0), "`width` must be above 0 and at most 1, got 0.0"),
        (lambda: qs.Hysteresis(width=1.5), "`width` must be above 0 and at most 1, got 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
