"""Quantization correction: what it learns, where it keeps it, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import quiesce as qs
from quiesce.diagnosis import correct_quantization
from quiesce.errors import DivergedError, NothingToDoError
from support.messages import telling
from support.small_networks import one_layer, prepared_network, weights_only

IMAGES = torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    """A prepared network in which no activation is 0 for all images."""
    model = prepared_network()
    model[3].bias.data.add_(1.0)
    return model


def batches_of(model: nn.Module, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs with the outputs of the model, but with another batch norm and another bias."""
    teacher = copy.deepcopy(model).eval()
    with torch.no_grad():
        teacher[1].weight.mul_(1.3)
        teacher[1].bias.add_(0.1)
        teacher[-1].bias.add_(0.2)
        return [(IMAGES, teacher(IMAGES))] * count


def test_it_finds_a_correction_that_exists_and_changes_no_code() -> None:
    model = network()
    codes = [weight.codes() for weight in qs.quantized_weights(model)]
    batches = batches_of(model, 300)
    model.eval()
    before = mse_loss(model(IMAGES), batches[0][1]).item()
    done = correct_quantization(model, batches, mse_loss, count=300, lr=0.01)
    assert mse_loss(model(IMAGES), batches[0][1]).item() < 0.01 * before
    # batch norm 2 * 4; depth-wise convolution and head: scale, and a bias for each output
    assert done == {"parameters": 8 + (1 + 4) + (1 + 5), "steps": 300}
    for weight, old in zip(qs.quantized_weights(model), codes, strict=True):
        assert torch.equal(weight.codes(), old)
    for layer in (model[3], model[-1]):
        (weight,) = qs.quantized_weights(layer)
        torch.testing.assert_close(weight.latent.detach(), weight.quantized())


def test_nothing_else_is_changed() -> None:
    model = network()
    model[3].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    correct_quantization(model, batches_of(model, 3), mse_loss, count=3, lr=0.01)
    changed = {
        name for name, now in model.state_dict().items() if not torch.equal(now, before[name])
    }
    # the head is frozen at its codes: its latents go to the middle of their bins
    head = {"6.weight", "6.bias", "6.weight_quantizer.scale"}
    assert {name for name in changed if "history" not in name} == {"1.weight", "1.bias", *head}
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_stripped_network_has_the_correction() -> None:
    model = network()
    correct_quantization(model, batches_of(model, 20), mse_loss, count=20, lr=0.01)
    model.eval()
    torch.testing.assert_close(qs.strip(model)(IMAGES), model(IMAGES))


def test_a_batch_of_any_kind_needs_a_forward() -> None:
    model = network()
    other = copy.deepcopy(model)
    batches = batches_of(model, 4)
    strange = [({"images": x}, y) for x, y in batches]
    correct_quantization(model, batches, mse_loss, count=4)
    correct_quantization(other, strange, mse_loss, count=4, forward=lambda m, b: m(b[0]["images"]))
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_loss_that_is_not_finite_leaves_the_network_as_it_was() -> None:
    model = network()
    (good, *_), before = batches_of(model, 1), [p.detach().clone() for p in model.parameters()]
    bad = (IMAGES * float("nan"), good[1])
    with pytest.raises(DivergedError, match="nan"):
        correct_quantization(model, [good, bad], mse_loss, count=2, lr=0.1)
    for (name, now), old in zip(model.named_parameters(), before, strict=True):
        if name not in ("3.weight", "6.weight"):  # frozen: in the middle of their bins
            assert torch.equal(now, old), name


def test_what_cannot_be_corrected_is_refused() -> None:
    batch = (torch.zeros(2, 4), torch.zeros(2, 1))
    for name, value in (("count", 0), ("lr", 0.0)):
        with pytest.raises(ValueError, match=telling(name, value)):
            correct_quantization(
                one_layer(4), [batch], mse_loss, **{"count": 1, "lr": 0.1, name: value}
            )
    with pytest.raises(NothingToDoError, match="empty"):
        correct_quantization(one_layer(4), [], mse_loss, count=1)
    locked = one_layer(4)
    locked.weight.requires_grad_(False)
    with pytest.raises(NothingToDoError, match="lock"):
        correct_quantization(locked, [batch], mse_loss, count=1)


def test_with_one_scale_per_channel_there_is_one_factor_per_channel() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    qs.prepare(layer, weights_only(per_channel=True), torch.zeros(1, 4))
    inputs = torch.randn(32, 4)
    targets = layer(inputs).detach() * torch.tensor([0.9, 1.0, 1.2]) + 0.1
    done = correct_quantization(layer, [(inputs, targets)] * 400, mse_loss, count=400, lr=0.01)
    assert done["parameters"] == 3 + 3
    assert mse_loss(layer(inputs), targets) < 1e-4
