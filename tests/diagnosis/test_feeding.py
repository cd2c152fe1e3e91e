"""Which layer feeds a batch norm is seen in a forward, not guessed from names."""

import torch
from torch import nn

import quiesce as qs
from quiesce.diagnosis import feeding_layers
from support.small_networks import weights_only


class Odd(nn.Module):
    """Order of declaration is not order of calls; one norm is fed by a sum, one is never called."""

    def __init__(self):
        super().__init__()
        self.unused = nn.BatchNorm2d(4)
        self.norm_b = nn.BatchNorm2d(4)
        self.norm_a = nn.BatchNorm2d(4)
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 4, 3, groups=4)
        self.after_sum = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        a = self.norm_a(self.a(x))
        b = self.norm_b(self.b(self.dropout(a)))
        return self.after_sum(a[..., 1:-1, 1:-1] + b)


EXPECTED = {"unused": None, "norm_b": "b", "norm_a": "a", "after_sum": None}


def test_the_layer_whose_output_it_gets():
    assert feeding_layers(Odd(), torch.rand(2, 3, 6, 6)) == EXPECTED


def test_the_same_after_preparing():
    images = torch.rand(2, 3, 6, 6)
    network = qs.prepare(Odd(), weights_only(act_bits=4), images)
    qs.calibrate(network, [images])
    assert feeding_layers(network, images[:1]) == EXPECTED


def test_a_norm_without_running_statistics_is_left_out():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert feeding_layers(network, torch.rand(2, 3, 6, 6)) == {}


def test_nothing_of_the_network_moves():
    network = Odd()
    network.norm_a.eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    numbers = torch.get_rng_state()
    feeding_layers(network, torch.rand(2, 3, 6, 6, generator=torch.Generator()))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )
