"""Dampening: value and gradient against the penalty written out for autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.cures.dampening import AGGREGATIONS
from quiesce.errors import TrackingError
from support.small_networks import Walk, one_layer, prepared_network, weights_only


def written_out(weights: list[qs.QuantizedWeight], aggregation: str, free: list[Tensor]) -> Tensor:
    """The penalty of strength 1, over the weights that are free, as the paper writes it."""
    total = torch.zeros(())
    for weight, mask in zip(weights, free, strict=True):
        low, high = weight.scale * weight.grid.quant_min, weight.scale * weight.grid.quant_max
        clipped = torch.maximum(torch.minimum(weight.latent, high), low)
        squares = (weight.scale * weight.codes() - clipped).square() * mask
        if aggregation == "sum":
            total = total + squares.sum()
        elif aggregation == "mean":
            total = total + squares.mean()
        else:
            total = total + squares.flatten(1).mean(1).sum()
    return total


def spread_out(model: nn.Module) -> None:
    """Latents all over the grid and beyond its ends."""
    for weight in qs.quantized_weights(model):
        weight.latent.data.copy_(torch.randn(weight.latent.shape) * 3 * weight.scale)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_value_and_gradient_are_those_of_the_written_out_penalty(aggregation, per_channel) -> None:
    model = prepared_network(per_channel=per_channel)
    spread_out(model)
    walk = Walk(model, [qs.Dampening(0.7, aggregation)])
    free = [torch.ones_like(w.latent, dtype=torch.bool) for w in walk.weights]
    expected = 0.7 * written_out(walk.weights, aggregation, free)
    latents = [w.latent for w in walk.weights]
    gradients = torch.autograd.grad(expected, latents)
    penalty = walk.control.penalty()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    for latent, gradient in zip(latents, gradients, strict=True):
        torch.testing.assert_close(latent.grad, gradient)
    assert all(p.grad is None for p in qs.quantizer_parameters(model))


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d, nn.ConvTranspose1d])
def test_per_channel_scales_go_with_their_channels(kind: Any) -> None:
    layer = kind(4, 6) if kind is nn.Linear else kind(4, 6, 3)
    example = torch.zeros(1, 4) if kind is nn.Linear else torch.zeros(1, 4, 5)
    qs.prepare(layer, weights_only(per_channel=True), example)
    spread_out(layer)
    walk = Walk(layer, [qs.Dampening(1.0)])
    free = [torch.ones_like(layer.latent, dtype=torch.bool)]
    expected = written_out(walk.weights, "sum", free)
    [gradient] = torch.autograd.grad(expected, [layer.latent])
    walk.control.penalty().backward()
    torch.testing.assert_close(layer.latent.grad, gradient)


def test_frozen_weights_are_left_out() -> None:
    model = prepared_network()
    spread_out(model)
    walk = Walk(model, [qs.Dampening(1.0)])
    for weight in walk.weights:
        weight.freeze(torch.rand(weight.latent.shape) < 0.5, weight.codes())
        weight.latent.data.add_(0.1 * weight.scale)  # as an optimizer would
    expected = written_out(walk.weights, "sum", [~w.frozen for w in walk.weights])
    penalty = walk.control.penalty()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    for weight in walk.weights:
        assert weight.frozen.any()
        assert not weight.latent.grad[weight.frozen].any()
        assert weight.latent.grad[~weight.frozen].any()


def test_it_pulls_to_the_middle_of_the_bin_and_not_from_beyond_the_grid() -> None:
    layer = one_layer(6, scale=0.5)
    layer.weight.data.copy_(torch.tensor([0.6, 0.4, 0.5, -0.2, 2.0, -9.0]))
    Walk(layer, [qs.Dampening(1.0)]).control.penalty().backward()
    expected = torch.tensor([[0.2, -0.2, 0.0, -0.4, 0.0, 0.0]])
    torch.testing.assert_close(layer.weight.grad, expected)


def test_gradient_descent_with_it_brings_every_weight_to_its_code() -> None:
    layer = one_layer(50, scale=0.5)
    walk = Walk(layer, [qs.Dampening(1.0)])
    layer.weight.data.copy_(torch.rand(1, 50) * 3.5 - 2)
    codes = walk.weights[0].codes()
    optimizer = torch.optim.SGD([layer.weight], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        walk.control.penalty().backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), 0.5 * codes)


@pytest.mark.parametrize("off", [0.0, lambda step: None, lambda step: 0.0, qs.constant(0.0)])
def test_strength_zero_adds_nothing(off: Any) -> None:
    model = prepared_network()
    walk = Walk(model, [qs.Dampening(off)])
    penalty = walk.control.penalty()
    assert penalty.item() == 0
    (model(torch.rand(2, 3, 6, 6)).sum() + penalty).backward()


def test_strength_is_read_at_the_step_of_the_control() -> None:
    layer = one_layer(5)
    layer.weight.data.fill_(0.6)
    walk = Walk(layer, [qs.Dampening(lambda step: [0.0, 1.0, 3.0][step])])
    values = []
    for _ in range(3):
        values.append(walk.control.penalty().item())
        walk.optimizer.step()
    assert values[0] == 0
    assert values[1] == pytest.approx(5 * 0.1**2, rel=1e-5)
    assert values[2] == pytest.approx(3 * values[1])


def test_a_negative_strength_pushes() -> None:
    layer = one_layer(3)
    layer.weight.data.fill_(0.6)
    penalty = Walk(layer, [qs.Dampening(-2.0)]).control.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(-2 * 3 * 0.1**2, rel=1e-5)
    torch.testing.assert_close(layer.weight.grad, torch.full((1, 3), -0.4))


def test_the_gradient_follows_what_the_loss_is_multiplied_by() -> None:
    model = prepared_network()
    penalty = Walk(model, [qs.Dampening(1.0)]).control.penalty()
    plain = torch.autograd.grad(penalty, [model[0].weight], retain_graph=True)[0]
    scaled = torch.autograd.grad(penalty * 1024, [model[0].weight])[0]
    torch.testing.assert_close(scaled, plain * 1024)


def test_a_backward_after_the_weights_moved_is_refused() -> None:
    model = prepared_network()
    walk = Walk(model, [qs.Dampening(1.0)])
    penalty = walk.control.penalty()
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


def test_autocast_leaves_the_penalty_in_float32() -> None:
    walk = Walk(prepared_network(), [qs.Dampening(1.0)])
    exact = walk.control.penalty()
    with torch.autocast("cpu", torch.bfloat16):
        penalty = walk.control.penalty()
    assert penalty.dtype == torch.float32
    assert torch.equal(penalty, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_gradients_have_the_dtype_of_their_latents(dtype: torch.dtype) -> None:
    layer = one_layer(20).to(dtype)
    layer.weight.data.copy_(torch.randn(1, 20))
    Walk(layer, [qs.Dampening(1.0)]).control.penalty().backward()
    assert layer.weight.grad.dtype == dtype
    assert layer.weight.grad.any()


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number, got"):
        qs.Dampening(strength)


def test_an_unknown_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"aggregation`? must be one of .*, got 'median'"):
        qs.Dampening(1.0, "median")  # pyright: ignore[reportArgumentType]


def test_a_cure_of_no_control_says_so() -> None:
    with pytest.raises(TrackingError, match=r"pass it to quiesce\.Control first"):
        qs.Dampening(1.0).penalty(0)
