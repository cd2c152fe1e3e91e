"""Each kind of layer, float and quantized."""

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.diagnosis import layer_kind
from support.small_networks import weights_only

LAYERS = [
    (nn.Conv2d(4, 4, 3, groups=4), "depth-wise"),
    (nn.Conv2d(4, 8, 3, groups=4), "depth-wise"),
    (nn.Conv2d(4, 4, 1, groups=4), "depth-wise"),
    (nn.Conv2d(4, 8, 1), "point-wise"),
    (nn.Conv2d(4, 8, 1, groups=2), "point-wise"),
    (nn.Conv2d(4, 8, (1, 3)), "full"),
    (nn.Conv2d(4, 8, 3, groups=2), "full"),
    (nn.Conv2d(1, 8, 3), "full"),
    (nn.ConvTranspose2d(4, 4, 3), "full"),
    (nn.Linear(4, 4), "linear"),
    (nn.BatchNorm2d(4), "other"),
    (None, "other"),
]


@pytest.mark.parametrize(("module", "kind"), LAYERS)
def test_the_kind_of_a_layer(module, kind):
    assert layer_kind(module) == kind


def test_a_quantized_layer_keeps_its_kind():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    qs.prepare(layer, weights_only(), torch.zeros(1, 4, 5, 5))
    assert layer_kind(layer) == "depth-wise"
