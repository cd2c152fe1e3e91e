"""Single weights, followed step by step, and which ones are worth following."""

import pytest
import torch

import quiesce as qs
from quiesce.diagnosis import Trajectory, most_oscillating, most_oscillating_layer
from quiesce.oscillation.tracker import OSCILLATING
from support.small_networks import Walk, prepared_network

FULL, DEPTHWISE, LINEAR = "0", "3", "6"


def latents(walk, **codes):
    """Latents on the grid: all codes 0, or what is given for a layer."""
    named = {"full": 0, "depthwise": 1, "linear": 2}
    values = [torch.zeros_like(weight.latent) for weight in walk.weights]
    for name, code in codes.items():
        values[named[name]] += code * walk.weights[named[name]].scale
    return values


def swing(walk, name, steps=6, first=1):
    """Let the first few weights of a layer go up and down."""
    weight = walk.weights[{"full": 0, "depthwise": 1, "linear": 2}[name]]
    up = torch.zeros_like(weight.latent)
    up.view(-1)[:first] = 1
    for step in range(steps):
        walk.to(*latents(walk, **{name: up * (step % 2)}))


@pytest.fixture
def walk():
    return Walk(prepared_network(), momentum=0.1)


def test_rows_are_what_weights_and_tracker_said_after_each_step(walk):
    weight, index = walk.weights[1], torch.tensor([5, 0])
    trajectory = Trajectory(walk.tracker, DEPTHWISE, index)
    expected = []
    for _ in range(4):
        walk.at_random(1)
        trajectory.step()
        columns = (weight.latent, weight.codes(), walk.tracker.frequency(DEPTHWISE))
        expected.append([column.detach().flatten()[index].tolist() for column in columns])
    found = trajectory.arrays()
    assert found["steps"].tolist() == [1, 2, 3, 4]
    assert found["index"].tolist() == [5, 0]
    assert found["code"].dtype == torch.int8
    for step, (latent, code, frequency) in enumerate(expected):
        assert found["latent"][step].tolist() == latent
        assert found["code"][step].tolist() == code
        assert found["frequency"][step].tolist() == frequency
    assert torch.equal(found["scale"], weight.scale.expand(4, 2))
    assert (found["quant_min"], found["quant_max"]) == (-4, 3)


def test_a_trajectory_without_a_step_is_empty(walk):
    found = Trajectory(walk.tracker, LINEAR, torch.tensor([1, 2, 3])).arrays()
    assert found["latent"].shape == (0, 3)


def test_scales_of_channels_are_those_of_the_weights():
    walk = Walk(prepared_network(per_channel=True))
    trajectory = Trajectory(walk.tracker, DEPTHWISE, torch.tensor([0, 9]))  # 9 weights a channel
    walk.at_random(1)
    trajectory.step()
    assert torch.equal(trajectory.arrays()["scale"][0], walk.weights[1].scale.flatten()[:2])


def test_depthwise_layers_go_first(walk):
    swing(walk, "full", first=50)
    swing(walk, "depthwise", first=1)
    assert most_oscillating_layer(walk.tracker) == DEPTHWISE


def test_another_layer_where_no_depthwise_one_oscillates(walk):
    swing(walk, "linear")
    assert most_oscillating_layer(walk.tracker) == LINEAR


def test_where_nothing_oscillates_it_is_a_depthwise_layer(walk):
    assert most_oscillating_layer(walk.tracker) == DEPTHWISE


def test_where_nothing_oscillates_it_is_the_layer_with_the_highest_frequency():
    walk = Walk(prepared_network(), momentum=0.001)
    swing(walk, "full", steps=4)
    swing(walk, "linear", steps=5)
    frequencies = [walk.tracker.frequency(weight.name).max() for weight in walk.weights]
    assert 0 == frequencies[1] < frequencies[0] < frequencies[2] < OSCILLATING
    assert most_oscillating_layer(walk.tracker) == LINEAR


def test_wide_layers_are_left_out():
    walk = Walk(prepared_network(overrides={DEPTHWISE: {"weight_bits": 8}}), momentum=0.1)
    swing(walk, "depthwise")
    swing(walk, "full")
    assert most_oscillating_layer(walk.tracker) == FULL


def test_wide_layers_are_taken_where_there_is_no_other():
    walk = Walk(prepared_network(weight_bits=8), momentum=0.1)
    assert most_oscillating_layer(walk.tracker) == DEPTHWISE


def test_the_most_oscillating_weights_come_first(walk):
    swing(walk, "depthwise", first=3)
    swing(walk, "depthwise", first=1)
    assert most_oscillating(walk.tracker, DEPTHWISE, 2)[0] == 0
    assert set(most_oscillating(walk.tracker, DEPTHWISE, 3).tolist()) == {0, 1, 2}
    assert len(most_oscillating(walk.tracker, DEPTHWISE, 1000)) == walk.weights[1].latent.numel()


def test_frozen_weights_come_last():
    walk = Walk(prepared_network(), [qs.Freezing(0.05, max_frozen=None)], momentum=0.1)
    swing(walk, "depthwise", first=3)
    assert walk.weights[1].frozen.sum() == 3
    assert not set(most_oscillating(walk.tracker, DEPTHWISE, 4).tolist()) & {0, 1, 2}


def test_a_layer_that_is_not_there(walk):
    with pytest.raises(KeyError, match="the tracker has no layer 'nowhere'"):
        Trajectory(walk.tracker, "nowhere", torch.tensor([0]))


def test_prepared_networks_here_are_of_three_layers():
    assert [w.name for w in qs.quantized_weights(prepared_network())] == [FULL, DEPTHWISE, LINEAR]
