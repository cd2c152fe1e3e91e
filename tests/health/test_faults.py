"""Slow looks at a model: they name what broke, and where."""

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.health.faults import broken_parameter, layer_of


@pytest.fixture
def network():
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    qs.prepare(layers, qs.Scheme(), torch.ones(1, 3))
    return qs.calibrate(layers, [torch.ones(1, 3)])


def test_a_sound_network_has_no_broken_parameter(network):
    assert broken_parameter(network) is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("0.weight", "0"),
        ("2.bias", "2"),
        ("2.weight_quantizer.scale", "2"),
        ("2.input_quantizer.scale", "2"),
    ],
)
def test_what_broke_is_found_with_its_layer(name, layer, value, network):
    network.get_parameter(name).data.fill_(value)
    assert broken_parameter(network) == name
    assert layer_of(name) == layer


def test_a_scale_is_named_before_the_weights_that_it_broke(network):
    network.get_parameter("0.weight").data.fill_(torch.nan)
    network.get_parameter("2.weight_quantizer.scale").data.fill_(torch.nan)
    assert broken_parameter(network) == "2.weight_quantizer.scale"
