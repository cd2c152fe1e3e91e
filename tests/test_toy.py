"""The closed-form laws of one oscillating weight, each over drawn parameters.

Between its two levels the latent is a rotation of a circle: every step adds a * r and takes a away
on the upper level, a = lr * E * s. So any T successive steps spend r*T on the upper level, give or
take one, and the rarer level is never visited twice in a row: they hold 2*min(r, 1-r)*T flips,
give or take two. One more is allowed for a tie that rounding decides: DISCREPANCY. By Abel
summation an exponential average of momentum m then differs from the share that it averages by at
most m * DISCREPANCY, and by what is left of its start.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quiesce import Dampening, Freezing
from quiesce.toy import Regression, Trace, freeze_latency, simulate

DISCREPANCY = 3
STEPS = 400
ROUNDING = 1e-9  # of float64 sums over some hundred steps, relative

shares = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=12)
energies = st.floats(0.2, 2.0)
scales = st.floats(0.05, 3.0)
rates = st.floats(0.1, 0.5)
"""lr * E: at most 1/2, so that no step jumps over a level."""
some = settings(max_examples=12, deadline=None)


def regression(shares: list[float], scale: float, energy: float) -> Regression:
    """Targets at these shares of a step, each above another code."""
    codes = torch.arange(len(shares)) % 11 - 6
    return Regression((codes + torch.tensor(shares, dtype=torch.float64)) * scale, scale, energy)


def circling(problem: Regression, lr: float, steps: int = STEPS, **settings) -> Trace:
    """Start at the threshold, which is on the circle: no burn-in."""
    return simulate(problem, lr=lr, steps=steps, start=problem.threshold, **settings)


def flips(trace: Trace, first: int = 0) -> Tensor:
    return (trace.code[first:].diff(dim=0) != 0).sum(0)


@given(shares, scales, energies, rates)
@some
def test_law_1_the_share_on_the_upper_level_is_the_place_of_the_target(
    shares: list[float], scale: float, energy: float, rate: float
) -> None:
    problem = regression(shares, scale, energy)
    code = circling(problem, rate / energy).code[:-1]
    upper = (code - problem.lower_code).sum(0)
    assert ((upper - problem.share * STEPS).abs() <= 2).all()
    mean = code.double().mean(0) * scale
    assert ((mean - problem.target).abs() <= 2 * scale / STEPS).all()


@given(shares, scales, energies, rates)
@some
def test_law_2_flips_and_oscillations_per_step_are_twice_the_distance(
    shares: list[float], scale: float, energy: float, rate: float
) -> None:
    problem, m = regression(shares, scale, energy), 0.02
    trace = circling(problem, rate / energy, tracker_momentum=m)
    expected = problem.frequency()
    assert ((flips(trace) - expected * STEPS).abs() <= DISCREPANCY).all()
    # the first flip of each is no oscillation; after 400 steps (1 - m)^400 = 3e-4 of it is left
    left = m * DISCREPANCY + (1 - m) ** (STEPS - 2 - 2 / expected)
    assert ((trace.frequency - expected).abs() <= left).all()


@given(shares, scales, energies, rates, rates)
@some
def test_law_3_the_learning_rate_sets_the_amplitude_and_not_the_frequency(
    shares: list[float], scale: float, energy: float, rate: float, other: float
) -> None:
    problem = regression(shares, scale, energy)
    slow, fast = (circling(problem, r / energy) for r in (rate, other / 10))
    assert ((flips(slow) - flips(fast)).abs() <= 2 * DISCREPANCY).all()
    for trace, r in ((slow, rate), (fast, other / 10)):
        span = trace.latent.amax(0) - trace.latent.amin(0)
        circle = problem.amplitude(r / energy)
        assert (span <= circle * (1 + ROUNDING)).all()
        assert (span >= circle * (1 - largest_gap(problem.share) - ROUNDING)).all()


def largest_gap(share: Tensor) -> Tensor:
    """Widest arc of a circle of length 1 that STEPS rotations by `share` leave free."""
    points = torch.arange(STEPS + 1)[:, None] * share % 1
    points = torch.cat([points.sort(0).values, points.amin(0, keepdim=True) + 1])
    return points.diff(dim=0).amax(0)


@given(shares, scales, energies, rates, st.floats(0.06, 0.8), st.floats(-0.45, 0.45))
@some
def test_law_6_above_the_critical_strength_the_weight_rests_on_the_nearest_level(
    shares: list[float], scale: float, energy: float, rate: float, part: float, offset: float
) -> None:
    problem, strength = regression(shares, scale, energy), part * energy
    start = (problem.lower_code + 0.5 + offset) * scale
    cures = [Dampening(strength)]
    trace = simulate(problem, lr=rate / energy, steps=STEPS, start=start, cures=cures)
    for code, near, critical in zip(
        trace.code.T, problem.nearest_code, problem.critical_strength.tolist(), strict=True
    ):
        far = energy - critical
        if 1.05 * critical < strength < 0.9 * far:
            # From the far level the latent nears a point reach * s/2 beyond the threshold, by the
            # factor 1 - 2*lr*strength a step; it starts at most s/2 before the threshold.
            reach, shrink = far / strength - 1, -math.log1p(-2 * rate * part)
            arrival = math.ceil(math.log((1 + reach) / reach) / shrink) + 1
            assert arrival < STEPS
            assert (code[arrival:] == near).all()
        elif strength > 1.05 * far:  # both levels hold what starts there
            assert (code == code[0]).all()


@given(shares, scales, energies, st.floats(0.01, 0.1), st.floats(0.0, 0.4))
@some
def test_law_6_below_it_the_weight_oscillates_less(
    shares: list[float], scale: float, energy: float, rate: float, part: float
) -> None:
    problem, strength = regression(shares, scale, energy), part * energy
    trace = circling(problem, rate / energy, cures=[Dampening(strength)])
    below = problem.critical_strength > strength
    # Latents are bounded, so E(mean q - w*) + 2 strength (mean w - mean q) = 0 up to E*s/T, and
    # mean w is within lr*E*s of the threshold; there is a flip into and one out of each visit.
    slack = 2 * strength * rate + energy / STEPS
    bound = 2 * slack / (energy - 2 * strength) + (DISCREPANCY - 1) / STEPS
    wrong = (flips(trace) / STEPS - problem.frequency(strength)).abs() > bound
    assert not (wrong & below).any()


@given(shares, scales, energies, rates)
@some
def test_law_9_the_average_of_codes_finds_the_nearest_level_that_of_latents_the_threshold(
    shares: list[float], scale: float, energy: float, rate: float
) -> None:
    m, begin = 0.03, STEPS // 2
    decided = [share for share in shares if abs(share - 0.5) > m * DISCREPANCY + 0.01]
    problem = regression([*decided, 0.3], scale, energy)
    freezing = Freezing(lambda step: None if step < begin else 1e-6)
    trace = circling(problem, rate / energy, cures=[freezing], tracker_momentum=m)
    assert not trace.frozen[begin].any()
    assert trace.frozen[-1].all()
    assert (trace.code[-1] == problem.nearest_code).all()

    average = problem.threshold
    for latent in trace.latent[:begin]:
        average = m * latent + (1 - m) * average
    assert ((average - problem.threshold).abs() <= problem.amplitude(rate / energy)).all()


@given(shares, rates, st.floats(0.005, 0.05), st.floats(0.02, 0.8))
@some
def test_law_10_freezing_comes_after_its_latency_or_never(
    shares: list[float], rate: float, m: float, threshold: float
) -> None:
    problem, wobble = regression(shares, 1.0, 1.0), m * DISCREPANCY
    trace = circling(problem, rate, cures=[Freezing(threshold)], tracker_momentum=m)
    for frozen, p in zip(trace.frozen.T, problem.frequency().tolist(), strict=True):
        when = int(frozen.int().argmax()) if frozen.any() else math.inf
        # the tracker remembers codes in its first step, and the first flip after it is no event
        assert when >= freeze_latency(p, m, max(threshold - wobble, 0.0)) - 1
        latest = freeze_latency(p, m, threshold + wobble) + 2 + 2 / p
        assert when <= latest or latest > STEPS


@given(shares, rates, st.floats(0.02, 0.1), st.floats(0.1, 0.99))
@some
def test_law_10_a_threshold_below_the_momentum_freezes_at_the_first_oscillation(
    shares: list[float], rate: float, m: float, part: float
) -> None:
    problem = regression(shares, 1.0, 1.0)
    trace = circling(problem, rate, cures=[Freezing(m * part, average=None)], tracker_momentum=m)
    for code, frozen in zip(trace.code[1:].T, trace.frozen[1:].T, strict=True):
        flipped = code.diff().nonzero().flatten() + 1
        assert int(frozen.int().argmax()) == int(flipped[1])


def test_freeze_latency_at_a_known_point() -> None:
    assert round(freeze_latency(0.68, 0.001, 0.1)) == 159
    assert freeze_latency(0.1, 0.001, 0.1) == math.inf


def test_the_regression_of_the_published_animation() -> None:
    problem = Regression(0.7107, scale=1 / 15, energy=0.3)  # read off the picture's axes
    trace = simulate(problem, lr=0.5, steps=60, start=torch.tensor([0.737]), bits=8)
    assert (trace.code[:, 0] == 10).nonzero()[0] == 11
    assert trace.latent[11:13, 0].tolist() == pytest.approx([0.6997, 0.7063], abs=5e-5)
    assert flips(trace, first=10).item() == pytest.approx(50 * problem.frequency().item(), abs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": math.nan}, "`target` must hold finite numbers"),
        ({"target": 0.3, "scale": 0.0}, "`scale` must be above 0, got 0.0"),
        ({"target": 0.3, "energy": -1.0}, "`energy` must be above 0, got -1.0"),
    ],
)
def test_bad_regressions_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regression(**arguments)


def test_bad_simulations_are_refused() -> None:
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        simulate(Regression(0.3), lr=0.1, steps=0)
    with pytest.raises(ValueError, match="take more bits or a larger scale"):
        simulate(Regression(7.3), lr=0.1, steps=1)
