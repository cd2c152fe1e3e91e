"""Freezing: when, at which code, and that nothing moves what is frozen."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import quiesce as qs
from quiesce.errors import TrackingError
from support.small_networks import Walk, one_layer, prepared_network

THRESHOLDS: dict[str, Callable[[int], float | None]] = {
    "constant": qs.constant(0.2),
    "falling": qs.cosine(0.9, 0.05, total=40, begin=0.2),
    "rising": qs.linear(0.05, 0.9, total=40),
    "steeply falling": lambda step: 0.9 * 0.7**step,
    "now and then": lambda step: (None, 0.0, 0.3, 0.15)[step % 4],
    "late": lambda step: None if step < 25 else 0.1,
}


@settings(max_examples=settings().max_examples // 8)
@pytest.mark.parametrize("kind", THRESHOLDS)
@given(momentum=st.floats(0.02, 0.9), seed=st.integers(0, 2**32 - 1))
def test_all_that_ever_came_above_the_threshold_is_frozen(kind: str, momentum, seed) -> None:
    threshold = THRESHOLDS[kind]
    walk = Walk(one_layer(40), [qs.Freezing(threshold, max_frozen=None)], momentum)
    [weight] = walk.weights
    expected = torch.zeros(1, 40, dtype=torch.bool)
    noise = torch.Generator().manual_seed(seed)
    for step in range(40):
        walk.to(torch.randn(40, generator=noise) * 0.3)
        begun = step >= getattr(threshold, "begin_step", 0)
        if begun and (limit := threshold(step)):
            frequency = walk.tracker.frequency("")
            assume(not (frequency - limit).abs().lt(1e-6).any())  # rounding decides a tie
            expected |= frequency > limit
        assert torch.equal(weight.frozen, expected), step
        pinned = (weight.scale * weight.codes())[expected]
        assert torch.equal(weight.latent[expected], pinned)


def swing(average: Any, codes: list[int]) -> tuple[int, list[int]]:
    """One weight that takes these codes, then 3; frozen code, and the codes it emitted."""
    layer = one_layer(1, scale=0.5)
    walk = Walk(layer, [qs.Freezing(0.3, average, max_frozen=None)], momentum=0.25)
    emitted = []
    for code in [*codes, 3, 3]:
        layer.weight.data.fill_(0.5 * code)
        emitted.append(walk.weights[0].codes().item())
        walk.optimizer.step()
    assert walk.weights[0].frozen.all()
    return walk.weights[0].codes().item(), emitted


def test_it_freezes_at_the_rounded_average_before_the_step_or_at_the_code_of_it() -> None:
    codes = [0, 1, 1, 1, 1, 0, 1]  # oscillates at 0, then at 1: frequency 0.25, then 0.4375
    # the average before the last code: 0 + 4 of 1 + 1 of 0, by the recursion with 1/4
    average = 0.0
    for code in codes[1:-1]:
        average = 0.25 * code + 0.75 * average
    assert round(average) == 1
    assert swing("code", codes) == (1, [*codes, 1, 1])
    assert swing(None, codes) == (1, [*codes, 1, 1])
    codes = [0, 1, 0]
    assert swing("code", [*codes, 1]) == (0, [0, 1, 0, 1, 0, 0])
    assert swing(None, [*codes, 1]) == (1, [0, 1, 0, 1, 1, 1])


@pytest.mark.parametrize(("threshold", "frozen"), [(0.0099, True), (0.0101, False)])
def test_a_single_oscillation_has_the_frequency_of_the_momentum(threshold, frozen) -> None:
    walk = Walk(one_layer(1), [qs.Freezing(threshold, max_frozen=None)], momentum=0.01)
    for code in (0, 1, 0):
        walk.to(torch.tensor([0.5 * code]))
    assert walk.weights[0].frozen.item() is frozen


def test_a_frozen_weight_stops_to_flip_and_its_frequency_decays() -> None:
    walk = Walk(one_layer(1), [qs.Freezing(0.4, average=None, max_frozen=None)], momentum=0.5)
    for code in (0, 1, 0, 1, 0, 1):
        walk.to(torch.tensor([0.5 * code]))
    [report] = walk.tracker.report()
    assert report.total_oscillations == 1  # frozen at the third step
    assert report.flips_per_step == 2 / 5
    assert walk.tracker.frequency("").item() == pytest.approx(0.5**4)


def test_a_flip_made_by_freezing_is_counted_once_in_the_step_after() -> None:
    walk = Walk(one_layer(1), [qs.Freezing(0.4, "code", max_frozen=None)], momentum=0.5)
    for code in (0, 0, 0, 1, 0):  # oscillates; the average before was 0.5, and rounds to 0
        walk.to(torch.tensor([0.5 * code]))
    assert walk.tracker.report()[0].flips_per_step * 4 == 2
    walk = Walk(one_layer(1), [qs.Freezing(0.4, "code", max_frozen=None)], momentum=0.5)
    for code in (2, 2, 3, 0):  # oscillates; the average before was 2.5, and rounds to 2
        walk.to(torch.tensor([0.5 * code]))
    assert walk.weights[0].codes().item() == 2
    for _ in range(2):
        walk.to(torch.tensor([0.0]))
        # 2 -> 3, 3 -> 0, and 0 -> 2 by freezing, which opposes
        [report] = walk.tracker.report()
        assert report.total_oscillations == 2
    assert report.flips_per_step * 5 == 3


def test_only_weights_of_few_bits_are_frozen() -> None:
    model = prepared_network(overrides={"3": {"weight_bits": 5}, "6": {"weight_bits": 8}})
    walk = Walk(model, [qs.Freezing(0.1, max_frozen=None)], momentum=0.5)
    walk.at_random(10)
    assert [w.frozen.any().item() for w in walk.weights] == [True, False, False]
    walk = Walk(model, [qs.Freezing(0.1, max_bits=5, max_frozen=None)], momentum=0.5)
    walk.at_random(10)
    assert [w.frozen.any().item() for w in walk.weights] == [True, True, False]


OPTIMIZERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_momentum_and_weight_decay_do_not_move_what_a_frozen_network_computes(kind: str) -> None:
    model = prepared_network().eval()
    images = torch.rand(4, 3, 6, 6)
    weights = qs.quantized_weights(model)
    latents = [weight.latent for weight in weights]
    for scale in qs.quantizer_parameters(model):
        scale.requires_grad_(False)
    optimizer = OPTIMIZERS[kind](latents)
    tracker = qs.OscillationTracker(weights, momentum=0.1)
    qs.Control(optimizer, weights, tracker, [qs.Freezing(0.5, max_frozen=None)])

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()

    train(5)  # the optimizer's moments are full of movement
    for weight in weights:
        weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
    output, codes = model(images), [weight.codes() for weight in weights]
    stripped, before = qs.strip(model)(images), [latent.clone() for latent in latents]
    train(8)
    assert torch.equal(model(images), output)
    assert torch.equal(qs.strip(model)(images), stripped)
    for weight, code, latent in zip(weights, codes, before, strict=True):
        assert torch.equal(weight.codes(), code)
        assert torch.equal(weight.latent, latent)
        assert not weight.latent.grad.any()


def test_a_learned_scale_carries_frozen_latents_along() -> None:
    layer = one_layer(3, scale=0.5)
    walk = Walk(layer, [qs.Freezing(0.5, max_frozen=None)])
    [weight] = walk.weights
    weight.freeze(torch.ones(1, 3, dtype=torch.bool), torch.tensor([[1, -2, 3]]))
    layer.weight_quantizer.scale.data.fill_(2.0)
    walk.optimizer.step()
    assert weight.latent.tolist() == [[2, -4, 6]]
    assert weight.codes().tolist() == [[1, -2, 3]]


def test_frozen_is_final() -> None:
    layer = one_layer(2)
    [weight] = qs.quantized_weights(layer)
    everything = torch.ones(1, 2, dtype=torch.bool)
    weight.freeze(torch.tensor([[True, False]]), torch.tensor([[1, 1]]))
    weight.freeze(everything, torch.tensor([[-4, -4]]))
    weight.freeze(everything, torch.tensor([[3.0, 3.0]]))
    assert weight.codes().tolist() == [[1, -4]]
    assert weight.latent.tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize("codes", [[[4, 0]], [[0, -5]], [[100, 100]]])
def test_codes_off_the_grid_are_refused(codes: list[list[int]]) -> None:
    layer = one_layer(2)
    [weight] = qs.quantized_weights(layer)
    with pytest.raises(ValueError, match="codes must be -4 to 3, got"):
        weight.freeze(torch.ones(1, 2, dtype=torch.bool), torch.tensor(codes))
    assert not weight.frozen.any()


def test_two_freezings_each_act_on_their_own_bits() -> None:
    model = prepared_network(overrides={"0": {"weight_bits": 8}})
    cures = [qs.Freezing(0.2, max_bits=8, max_frozen=None), qs.Freezing(0.05, max_frozen=None)]
    walk = Walk(model, cures, momentum=0.1)
    expected = {weight.name: torch.zeros_like(weight.frozen) for weight in walk.weights}
    for _ in range(12):
        walk.at_random(1)
        for weight in walk.weights:
            limit = 0.2 if weight.grid.bits == 8 else 0.05
            expected[weight.name] |= walk.tracker.frequency(weight.name) > limit
    for weight in walk.weights:
        assert torch.equal(weight.frozen, expected[weight.name])
        assert 0 < weight.frozen.float().mean() < 1 or weight.grid.bits < 8


def loud_then_quiet(walk: Walk, steps: int) -> None:
    """Oscillate until the last step but one; in the last one nothing moves."""
    latents = [torch.zeros(w.latent.shape) for w in walk.weights]
    for step in range(steps - 1):
        latents = [(step % 2) * w.scale.expand_as(w.latent) for w in walk.weights]
        walk.to(*latents)
    walk.to(*latents)


def test_the_state_of_a_run_without_freezing_is_looked_at_as_a_whole() -> None:
    def walk(threshold: Callable[[int], float | None]) -> Walk:
        return Walk(one_layer(6), [qs.Freezing(threshold, max_frozen=None)], momentum=0.1)

    without, with_it = walk(lambda step: None), walk(qs.constant(0.2))
    loud_then_quiet(without, 10)
    for _ in range(10):  # as many quiet steps: nothing is fresh, nothing is frozen
        with_it.to(torch.zeros(6))
    with_it.weights[0].module.load_state_dict(without.weights[0].module.state_dict())
    with_it.control.load_state_dict(without.control.state_dict())
    with_it.optimizer.step()
    assert (with_it.tracker.frequency("") > 0.2).all()
    assert with_it.weights[0].frozen.all()


def test_the_cure_of_an_earlier_run_starts_anew() -> None:
    late = qs.Freezing(lambda step: None if step < switch_on else 0.2, max_frozen=None)
    switch_on = 0
    first = Walk(one_layer(6), [late], momentum=0.1)
    for _ in range(10):
        first.to(torch.zeros(6))
    switch_on = 10
    second = Walk(one_layer(6), [late], momentum=0.1)
    loud_then_quiet(second, 10)
    second.optimizer.step()
    assert second.weights[0].frozen.all()


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold`? must be above 0 and at most 1, got"):
        qs.Freezing(threshold, max_frozen=None)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_schedule_out_of_range_is_refused_at_its_step(threshold: float) -> None:
    walk = Walk(
        one_layer(2), [qs.Freezing(lambda step: threshold if step == 2 else None, max_frozen=None)]
    )
    walk.at_random(2)
    with pytest.raises(ValueError, match=r"threshold`? must be .*, got .* at step 2"):
        walk.at_random(1)
    assert not walk.weights[0].frozen.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "latent"}, r"average`? must be \"code\" or None, got 'latent'"),
        ({"max_bits": 1}, r"max_bits`? must be 2 to 8, got 1"),
        ({"max_bits": 9}, r"max_bits`? must be 2 to 8, got 9"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qs.Freezing(0.1, **options, max_frozen=None)


def test_a_cure_of_no_control_says_so() -> None:
    with pytest.raises(TrackingError, match=r"pass it to quiesce\.Control first"):
        qs.Freezing(0.1, max_frozen=None).after_step(0)


def test_a_copy_of_a_model_freezes_by_itself() -> None:
    model = prepared_network()
    other = copy.deepcopy(model)
    mine, theirs = qs.quantized_weights(model)[0], qs.quantized_weights(other)[0]
    mask: Tensor = torch.ones_like(mine.latent, dtype=torch.bool)
    mine.freeze(mask, torch.zeros_like(mine.codes()))
    assert not theirs.frozen.any()
    assert theirs.codes().any()
