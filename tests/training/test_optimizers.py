"""JoinedOptimizer does what its members would do alone, and is one optimizer to everybody else."""

from copy import deepcopy

import pytest
import torch
from torch import nn, ones
from torch.optim.lr_scheduler import LambdaLR

import quiesce as qs
from quiesce.recipes.sections import OptimizerConfig
from quiesce.training.optimizers import JoinedOptimizer, joined_optimizer, make_optimizer

SGD = OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
ADAM = OptimizerConfig(kind="adam", lr=0.01)


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def joined(network):
    return JoinedOptimizer(
        [
            make_optimizer(layer.parameters(), c)
            for layer, c in zip(network, (SGD, ADAM), strict=True)
        ]
    )


def train(network, optimizers, steps):
    torch.manual_seed(1)
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        network(torch.randn(5, 3)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def same(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def twin(network):
    return deepcopy(network)


def test_joined_members_do_what_they_do_alone(network, twin):
    apart = [
        make_optimizer(layer.parameters(), c) for layer, c in zip(twin, (SGD, ADAM), strict=True)
    ]
    train(network, [joined(network)], 5)
    train(twin, apart, 5)
    assert same(network, twin)


def test_a_learning_rate_schedule_reaches_every_member(network):
    optimizer = joined(network)
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    train(network, [optimizer], 1)
    schedule.step()
    rates = [group["lr"] for member in optimizer.members for group in member.param_groups]
    assert rates == [0.05, 0.005]


def test_resuming_from_a_state_dict_is_exact_to_the_bit(network, twin):
    straight = joined(network)
    train(network, [straight], 3)
    twin.load_state_dict(network.state_dict())
    resumed = joined(twin)
    resumed.load_state_dict(deepcopy(straight.state_dict()))
    resumed.param_groups[0]["lr"] = straight.param_groups[0]["lr"] = 0.03  # members see it
    train(network, [straight], 3)
    train(twin, [resumed], 3)
    assert same(network, twin)


def test_the_closure_is_called_once_with_gradients_on(network):
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        return torch.tensor(3.0)

    assert joined(network).step(closure) == 3.0
    assert calls == [True]


def test_a_hook_on_the_step_fires_once(network):
    calls = []
    optimizer = joined(network)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(network, [optimizer], 2)
    assert calls == [1, 1]


def test_a_scaler_skips_every_member_on_an_overflow(network, twin):
    optimizer = joined(network)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    scaler.scale(network(torch.full((1, 3), torch.inf)).sum()).backward()
    scaler.step(optimizer)
    assert same(network, twin)


def test_zero_grad_clears_every_member(network):
    optimizer = joined(network)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.zero_grad()
    assert all(p.grad is None for p in network.parameters())


def test_no_member_and_a_shared_parameter_are_refused(network):
    with pytest.raises(ValueError, match="at least one optimizer"):
        JoinedOptimizer([])
    twice = [make_optimizer(network.parameters(), SGD) for _ in range(2)]
    with pytest.raises(ValueError, match="more than one parameter group"):
        JoinedOptimizer(twice)


def test_a_group_can_not_be_added_later(network):
    with pytest.raises(ValueError, match="before the members are joined"):
        joined(network).add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@pytest.mark.parametrize(("kind", "made"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_an_optimizer_is_made_as_configured(kind, made, network):
    config = OptimizerConfig(kind=kind, lr=0.2, momentum=0.8, weight_decay=0.1)
    optimizer = make_optimizer(network.parameters(), config)
    assert type(optimizer).__name__ == made
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.1)
    assert group.get("momentum", group.get("betas", (None,))[0]) == 0.8


def test_weights_and_scales_follow_their_own_rules():
    network = qs.prepare(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), qs.Scheme(), ones(1, 3))
    weights, scales = joined_optimizer(network, SGD, ADAM).members
    assert (type(weights), type(scales)) == (torch.optim.SGD, torch.optim.Adam)
    moved = [{id(p) for g in each.param_groups for p in g["params"]} for each in (weights, scales)]
    assert moved[1] == set(map(id, qs.quantizer_parameters(network)))
    assert moved[0] | moved[1] == set(map(id, network.parameters()))
