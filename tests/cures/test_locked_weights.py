"""A weight with requires_grad=False keeps latents, codes and scale, whatever acts on the others."""

import pytest
import torch
from torch import nn

import quiesce as qs
from support.small_networks import weights_only

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Sequential:
    """Three linear layers; the middle one is to be locked."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def train(model: nn.Module, control: qs.Control, optimizer: torch.optim.Optimizer, n: int) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(n):
        target = torch.randint(4, (64,), generator=generator)
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(X), target) + control.penalty()).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("estimator", "per_channel"),
    [
        (qs.STE(), False),
        pytest.param(qs.STE(), True, marks=pytest.mark.slow),
        pytest.param(qs.StochasticRounding(), False, marks=pytest.mark.slow),
    ],
)
def test_nothing_of_a_locked_weight_changes(estimator: qs.Estimator, per_channel: bool) -> None:
    model = mlp()
    qs.prepare(model, weights_only(estimator=estimator, per_channel=per_channel), X)
    model[2].weight.requires_grad_(False)
    weights = qs.quantized_weights(model)
    scales = qs.quantizer_parameters(model)
    others = [p for p in model.parameters() if p.requires_grad and all(p is not s for s in scales)]
    groups = [{"params": others, "weight_decay": 1e-2}, {"params": scales}]
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.02)
    cures = [qs.Dampening(1e-3), qs.Freezing(0.03, max_frozen=None)]
    control = qs.Control(optimizer, weights, tracker, cures)
    locked = weights[1]
    before = [v.clone() for v in (locked.latent, locked.codes(), locked.scale, locked.history)]
    train(model, control, optimizer, 400)
    after = locked.latent, locked.codes(), locked.scale
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=False))
    assert not locked.frozen.any()
    assert weights[0].frozen.any()
    assert [layer.locked for layer in tracker.report()] == [0, 1, 0]
    assert tracker.summary().locked == pytest.approx(256 / (128 + 256 + 64))


def test_a_weight_may_be_locked_and_unlocked_in_training() -> None:
    model = mlp()
    qs.prepare(model, weights_only(), X)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    tracker = qs.OscillationTracker(weights, momentum=0.02)
    cures = [qs.Dampening(1e-3), qs.Freezing(0.03, max_frozen=None)]
    control = qs.Control(optimizer, weights, tracker, cures)
    train(model, control, optimizer, 20)
    weights[1].latent.requires_grad_(False)
    before = weights[1].latent.clone(), weights[1].scale.clone(), weights[1].frozen.clone()
    train(model, control, optimizer, 100)
    after = weights[1].latent, weights[1].scale, weights[1].frozen
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    weights[1].latent.requires_grad_(True)
    train(model, control, optimizer, 200)
    assert weights[1].frozen.sum() > before[2].sum()
    assert not torch.equal(weights[1].scale, before[1])


def test_dampening_leaves_a_locked_weight_out_of_the_penalty() -> None:
    model = mlp()
    qs.prepare(model, weights_only(), X)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Dampening(1.0)])
    every = control.penalty().item()
    model[2].weight.requires_grad_(False)
    apart = (weights[1].held - weights[1].quantized()).square()
    inside = weights[1].codes().abs() < 3
    assert control.penalty().item() < every - apart[inside].sum().item() / 2
