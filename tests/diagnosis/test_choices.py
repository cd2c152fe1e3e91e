"""The two codes of oscillating weights: which, how likely, and a network that has them."""

import pytest
import torch

import quiesce as qs
from quiesce.diagnosis import draw, oscillating_choices, replaced
from quiesce.errors import TrackingError
from support.small_networks import Walk, one_layer, prepared_network

MOMENTUM = 0.01


def swinging(cures=(), steps=400):
    """Four weights: at rest on 1; half its steps on 2; a quarter of them on 1; beyond the grid."""
    walk = Walk(one_layer(4, scale=1.0), cures, momentum=MOMENTUM)
    walk.tracker.follow_average(walk.weights)
    for step in range(steps):
        second, third = 1.0 + step % 2, 0.0 + (step % 4 == 3)
        walk.to(torch.tensor([1.0, second, third, -9.0]))
    return walk


def test_weights_that_oscillate_and_their_codes():
    (choice,) = oscillating_choices(swinging().tracker)
    assert choice.index.tolist() == [1, 2]
    assert choice.lower.tolist() == [1.0, 0.0]
    # an exponential average swings by less than its momentum about the mean
    assert choice.probability.tolist() == pytest.approx([0.5, 0.25], abs=2 * MOMENTUM)
    assert choice.now.tolist() == [2.0, 1.0]


def test_frozen_weights_have_no_choice_left():
    walk = swinging([qs.Freezing(0.3, max_frozen=None)])
    assert walk.weights[0].frozen.flatten().tolist() == [False, True, True, False]
    assert oscillating_choices(walk.tracker) == []


def test_wider_layers_are_left_out():
    assert oscillating_choices(swinging().tracker, max_bits=2) == []


def test_a_higher_cut_leaves_fewer():
    (choice,) = oscillating_choices(swinging().tracker, cut=0.7)
    assert choice.index.tolist() == [1]


def test_without_averages_the_codes_are_not_known():
    walk = Walk(one_layer(1, scale=1.0))
    with pytest.raises(TrackingError, match="nothing follows the average"):
        oscillating_choices(walk.tracker)


def test_draws_are_by_share_and_by_seed():
    choices = oscillating_choices(swinging().tracker)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([draw(choices, generator)[0] for _ in range(1000)])
    ups = drawn - choices[0].lower
    assert set(ups.unique().tolist()) == {0.0, 1.0}
    # five standard deviations of a mean of 1000 draws
    assert ups.mean(0).tolist() == pytest.approx(choices[0].probability.tolist(), abs=0.08)
    again = draw(choices, torch.Generator().manual_seed(1))
    assert torch.equal(again[0], drawn[0])


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per_channel", [False, True])
def test_replaced_codes_are_what_the_network_computes_with(format, per_channel):
    network = prepared_network(per_channel=per_channel).to(memory_format=format)
    walk = Walk(network, momentum=0.1)
    walk.tracker.follow_average(walk.weights)
    walk.at_random(30)
    choices = oscillating_choices(walk.tracker, cut=0.1)
    assert len(choices) == 3
    codes = [choice.lower + 1 for choice in choices]
    images, latents = torch.rand(2, 3, 6, 6), [w.latent.detach().clone() for w in walk.weights]
    before = network(images)
    with replaced(choices, codes):
        found = network(images)
    assert torch.equal(network(images), before)
    assert all(torch.equal(w.latent, old) for w, old in zip(walk.weights, latents, strict=True))
    for choice, code in zip(choices, codes, strict=True):
        latent = choice.weight.latent.data
        scale = choice.weight.scale.expand_as(latent)
        values = latent.flatten().index_put((choice.index,), code * scale.flatten()[choice.index])
        latent.copy_(values.view(latent.shape))
    assert torch.allclose(found, network(images), atol=1e-6)  # another path, another rounding
    assert not torch.allclose(found, before)


def test_gradients_reach_the_codes_alone():
    walk = swinging()
    choices = oscillating_choices(walk.tracker)
    codes = [choice.lower.clone().requires_grad_() for choice in choices]
    layer = walk.weights[0].module
    with replaced(choices, codes):
        layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert codes[0].grad.tolist() == [2.0, 3.0]  # the inputs, times the scale 1
    assert layer.latent.grad is None
