"""Codes learned by the loss: the right ones where the loss knows them, everything else held."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from quiesce.diagnosis import LearningOptions, learn, oscillating_choices, replaced
from quiesce.diagnosis.learning import inverse, pull, relaxed
from support.small_networks import Walk, one_layer

WEIGHTS = 12


@pytest.fixture
def problem():
    """Weights that all swing between 0 and 1, inputs, and the outputs of a hidden choice."""
    walk = Walk(one_layer(WEIGHTS, scale=0.5), momentum=0.1)
    walk.tracker.follow_average(walk.weights)
    for step in range(40):
        walk.to(torch.full((WEIGHTS,), 0.5 * (step % 2)))
    choices = oscillating_choices(walk.tracker)
    hidden = torch.arange(WEIGHTS) % 3 == 0
    inputs = torch.randn(64, WEIGHTS)
    return walk.weights[0].module, choices, hidden.float(), inputs


def test_the_hidden_choice_is_found(problem):
    layer, choices, hidden, inputs = problem
    targets = (inputs @ (0.5 * hidden))[:, None]
    (codes,) = learn(layer, choices, [(inputs, targets)] * 200, mse_loss, steps=200)
    assert torch.equal(codes, hidden)
    with replaced(choices, [codes]):
        assert torch.allclose(layer(inputs), targets, atol=1e-5)


def test_the_pull_alone_decides_by_the_share_of_the_steps(problem):
    layer, choices, _, inputs = problem
    share = torch.linspace(0.1, 0.9, WEIGHTS)
    object.__setattr__(choices[0], "probability", share)
    flat = [(inputs, torch.zeros(64, 1))] * 300

    def nothing(out, _):
        return 0 * out.sum()

    (codes,) = learn(layer, choices, flat, nothing, steps=300)
    assert torch.equal(codes, (share > 0.5).float())


def test_the_network_comes_back_as_it_was(problem):
    layer, choices, hidden, inputs = problem
    network = nn.Sequential(layer, nn.BatchNorm1d(1), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    numbers = torch.get_rng_state()
    learn(network, choices, [(inputs, hidden.mean().expand(64, 1))] * 3, mse_loss, steps=3)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), numbers)


def test_codes_stay_on_the_two_of_each_weight(problem):
    layer, choices, _, inputs = problem
    far = [(inputs, 100 * inputs.sum(1, keepdim=True))] * 50
    (codes,) = learn(layer, choices, far, mse_loss, steps=50)
    assert codes.tolist() == [1.0] * WEIGHTS


@pytest.mark.parametrize(("steps", "batches"), [(0, 1), (3, 2)])
def test_steps_and_batches_must_be_enough(problem, steps, batches):
    layer, choices, _, inputs = problem
    with pytest.raises(ValueError, match="steps"):
        learn(layer, choices, [(inputs, inputs[:, :1])] * batches, mse_loss, steps=steps)


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"begin": 1.0}, {"begin": -0.1}])
def test_options_out_of_range(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must be"):
        LearningOptions(**bad)


@given(st.floats(0, 1))
def test_a_variable_for_every_share(share):
    v = inverse(torch.tensor(share, dtype=torch.float64))
    assert relaxed(v).item() == pytest.approx(share, abs=1e-12)


def test_both_ends_are_reached():
    assert relaxed(torch.tensor([-50.0, 0.0, 50.0])).tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_the_pull_leaves_whole_codes_alone():
    assert pull(torch.tensor([0.0, 1.0, 1.0]), 2.0) == 0
    assert pull(torch.tensor([0.5]), 2.0) == 1
    assert pull(torch.tensor([0.3]), 20.0) > 0.99  # flat in the middle while beta is large
