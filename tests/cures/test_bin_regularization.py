"""BR and OBR: their values, and their gradients against autograd."""

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import TrackingError
from quiesce.oscillation import weight_blocks
from support.messages import telling
from support.small_networks import Walk, one_layer, prepared_network, weights_only

FORMS = pytest.mark.parametrize("kind", [qs.BinRegularization, qs.OBR])


def by_hand(kind: type[qs.Cure], weight: qs.QuantizedWeight) -> Tensor:
    """The formula of the paper, on the bins of one layer, in autograd."""
    grid, scale = weight.grid, weight.scale
    ends = scale * grid.quant_min, scale * grid.quant_max
    clipped = torch.minimum(torch.maximum(weight.latent, ends[0]), ends[1])
    off = torch.where(weight.frozen, 0.0, clipped - weight.quantized())
    codes, value = weight.codes(), off.new_zeros(())
    for code in codes.unique():
        mine = off[codes == code]
        if kind is qs.BinRegularization:
            value = value + mine.mean().square()
        if len(mine) > 1:
            value = value + mine.var()
    return value + off.square().mean() if kind is qs.OBR else value


def network(**changes) -> nn.Module:
    model = prepared_network(**changes).double()
    with torch.no_grad():
        for weight in qs.quantized_weights(model):
            weight.latent.mul_(1.4)  # some are clipped
    return model


@FORMS
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_value_and_gradient_are_those_of_the_formula(kind, per_channel) -> None:
    walk = Walk(network(per_channel=per_channel), [kind(0.3)])
    first = walk.weights[0]
    first.freeze(torch.rand(first.latent.shape) < 0.3, first.codes())
    penalty = walk.control.penalty()
    latents = [weight.latent for weight in walk.weights]
    mine = torch.autograd.grad(penalty, latents)
    expected = 0.3 * torch.stack([by_hand(kind, weight) for weight in walk.weights]).sum()
    theirs = torch.autograd.grad(expected, latents)
    torch.testing.assert_close(penalty, expected, rtol=1e-9, atol=1e-12)
    for one, other, weight in zip(mine, theirs, walk.weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert (one[weight.frozen] == 0).all()
        assert (one != 0).any()


@FORMS
def test_layers_with_more_bits_and_locked_ones_are_left_out(kind) -> None:
    walk = Walk(network(overrides={"6": {"weight_bits": 8}}), [kind(0.3)])
    walk.weights[1].latent.requires_grad_(False)
    first, *others = walk.weights
    penalty = walk.control.penalty()
    torch.testing.assert_close(penalty, 0.3 * by_hand(kind, first), rtol=1e-9, atol=1e-12)
    penalty.backward()
    assert first.latent.grad is not None
    assert first.latent.grad.abs().sum() > 0
    for weight in others:
        assert weight.latent.grad is None or (weight.latent.grad == 0).all()


@FORMS
def test_a_large_layer_in_several_blocks(kind, monkeypatch) -> None:
    model = nn.Sequential(nn.Linear(70, 30, bias=False), nn.Linear(30, 3, bias=False))
    qs.prepare(model, weights_only(), torch.zeros(1, 70))
    expected = 0.3 * torch.stack([by_hand(kind, w) for w in qs.quantized_weights(model)]).sum()
    latents = [weight.latent for weight in qs.quantized_weights(model)]
    theirs = torch.autograd.grad(expected, latents)
    monkeypatch.setattr(weight_blocks, "_IN_PLACE", {"cpu": 256})
    monkeypatch.setattr(weight_blocks, "LARGEST", 300)
    walk = Walk(model, [kind(0.3)])
    assert len(walk.tracker.blocks(walk.tracker.groups[0])) > 3
    penalty = walk.control.penalty()
    torch.testing.assert_close(penalty, expected, rtol=1e-4, atol=1e-6)
    for one, other in zip(torch.autograd.grad(penalty, latents), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_one_weight_per_bin_is_dampening() -> None:
    values = torch.tensor([-0.9, -0.4, 0.1, 0.7])  # codes -2, -1, 0, 1
    pulls = []
    for made in (qs.BinRegularization(0.2), qs.Dampening(0.2)):
        layer = one_layer(4)
        layer.weight.data.copy_(values[None])
        Walk(layer, [made]).control.penalty().backward()
        pulls.append(layer.weight.grad)
    torch.testing.assert_close(*pulls)


def test_what_it_is_not_defined_for_is_refused() -> None:
    with pytest.raises(TrackingError, match=telling("OBR", "4 bits", "8")):
        Walk(one_layer(8, bits=8), [qs.OBR(0.1)])
    with pytest.raises(ValueError, match="max_bits"):
        qs.BinRegularization(0.1, max_bits=9)
