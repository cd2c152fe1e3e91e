"""The quantizer module: what it refuses, what it keeps, and what it leaves behind in a file."""

from typing import Any

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.arithmetic.fake_quantize import SCALE_FLOOR
from quiesce.errors import NotCalibratedError, PrepareError
from support.small_networks import one_layer

UNSIGNED, SIGNED = qs.Grid(4, signed=False), qs.Grid(4, signed=True)


def quantizer(grid: qs.Grid = UNSIGNED, **options: Any) -> qs.FakeQuantizer:
    """For activations, with a grid and the scale 0.5."""
    made = qs.FakeQuantizer(grid.bits, **options)
    made.set_grid(grid, torch.tensor(0.5))
    return made


def test_without_a_grid_it_refuses_and_says_whose_it_is() -> None:
    made = qs.FakeQuantizer(4)
    made.name = "stem.input"
    with pytest.raises(NotCalibratedError, match=r"stem\.input has no scale yet; call quiesce"):
        made(torch.zeros(1))


def test_does_what_fake_quantize_does() -> None:
    x = torch.randn(3, 5) * 4
    for options in ({}, {"clip": "grid"}, {"clip": "round"}):
        y = quantizer(**options)(x)
        assert torch.equal(y, qs.fake_quantize(x, torch.tensor(0.5), UNSIGNED))


def test_scale_and_offset_learn() -> None:
    made = quantizer(learn_offset=True)
    x = torch.randn(3, 5).mul(6).requires_grad_()
    made(x).sum().backward()
    scale, offset = torch.tensor(0.5, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    qs.fake_quantize(x, scale, UNSIGNED, offset=offset).sum().backward()
    assert made.offset is not None
    assert torch.equal(made.scale.grad, scale.grad)
    assert torch.equal(made.offset.grad, offset.grad)
    assert made.offset.grad != 0


def test_grad_scaling_counts_the_features_of_a_sample() -> None:
    x = torch.randn(8, 3, 5) * 4
    plain, scaled = quantizer(), quantizer(grad_scaling=True)
    plain(x).sum().backward()
    scaled(x).sum().backward()
    torch.testing.assert_close(scaled.scale.grad, plain.scale.grad * (15 * 15) ** -0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 1}, ValueError, "bits.* must be 2 to 8, got 1"),
        ({"bits": 4.0}, TypeError, r"bits.* must be an integer, got 4\.0"),
        ({"bits": 4, "clip": "soft"}, ValueError, "clip.* must be one of"),
        ({"bits": 4, "ranges": "soft"}, ValueError, "ranges.* must be one of"),
    ],
)
def test_bad_arguments_are_refused(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        qs.FakeQuantizer(**options)


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_the_scale_in_use_is_positive(value: float) -> None:
    made = quantizer()
    made.scale.data.fill_(value)
    assert made.step_size.item() == max(abs(value), SCALE_FLOOR)
    assert not made.step_size.requires_grad
    assert made(torch.randn(10)).isfinite().all()


@pytest.mark.parametrize("grid", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_a_file_brings_back_grid_scale_and_offset(grid: qs.Grid) -> None:
    saved = quantizer(grid, learn_offset=True)
    saved.scale.data.fill_(0.3)
    saved.offset.data.fill_(0.7)
    fresh = qs.FakeQuantizer(4, learn_offset=True)
    fresh.load_state_dict(saved.state_dict())
    assert fresh.grid == grid
    x = torch.randn(20)
    assert torch.equal(fresh(x), saved(x))


def test_a_file_from_before_calibration_leaves_no_grid() -> None:
    made = quantizer()
    made.load_state_dict(qs.FakeQuantizer(4).state_dict())
    assert made.grid is None


def test_a_file_of_other_bits_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"are 0 to 15, .* prepared for 3 bits"):
        qs.FakeQuantizer(3).load_state_dict(quantizer().state_dict())


def test_frozen_weights_emit_their_code_with_its_gradients() -> None:
    layer = one_layer(4, scale=0.5)
    [weight] = qs.quantized_weights(layer)
    mask = torch.tensor([[True, True, False, False]])
    weight.freeze(mask, torch.tensor([[-4, 2, 0, 0]]))
    layer.weight.data.copy_(torch.tensor([[0.9, 0.9, 0.9, 9.0]]))  # as an optimizer would
    quantize = layer.weight_quantizer
    y = quantize(layer.latent)
    assert y.tolist() == [[-2.0, 1.0, 1.0, 1.5]]
    y.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    assert layer.weight.grad.tolist() == [[0, 0, 100, 0]]
    # the code where frozen or clipped, the rounding error 2 - 1.8 elsewhere
    expected = -4 * 1 + 2 * 10 + 0.2 * 100 + 3 * 1000
    assert quantize.scale.grad.item() == pytest.approx(expected)


def test_state_is_parameters_and_buffers() -> None:
    activations = quantizer(learn_offset=True).state_dict()
    assert set(activations) == {"scale", "offset", "limits"}
    assert set(one_layer(3).weight_quantizer.state_dict()) == {"scale", "limits", "history"}


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_holds_copies_and_loads_into_the_module_alone(assign: bool) -> None:
    old, new = one_layer(4), one_layer(4)
    [weight] = qs.quantized_weights(old)
    weight.freeze(torch.tensor([[True, False, True, False]]), torch.tensor([[1, 0, -2, 0]]))
    state = old.state_dict()
    new.load_state_dict(state, assign=assign)
    for name in ("weight_quantizer.limits", "weight_quantizer.history"):
        state[name].zero_()  # as an average would, in place
    for layer in old, new:
        [loaded] = qs.quantized_weights(layer)
        assert loaded.frozen.tolist() == [[True, False, True, False]]
        assert loaded.codes()[loaded.frozen].tolist() == [1, -2]
        assert loaded.limits.tolist() == [-4, 3]
    assert not dict(new.named_buffers())


def test_records_of_another_shape_are_refused() -> None:
    state = one_layer(4).state_dict()
    state["weight_quantizer.history"] = state["weight_quantizer.history"][:, :2]
    with pytest.raises(RuntimeError, match=r"size mismatch for weight_quantizer\.history"):
        one_layer(4).load_state_dict(state)


def test_repr_says_bits_and_kind() -> None:
    assert "bits=4, unsigned, scales=1" in repr(quantizer())
    assert "no grid yet" in repr(qs.FakeQuantizer(4))


def test_moves_with_its_model() -> None:
    model = nn.Sequential(quantizer(), nn.Flatten()).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(model(x), qs.fake_quantize(x, torch.tensor(0.5).double(), UNSIGNED))


def test_data_parallel_is_refused_with_what_to_use() -> None:
    """nn.DataParallel calls this method of every module, but only with several devices."""
    with pytest.raises(PrepareError, match=r"DataParallel .*DistributedDataParallel"):
        quantizer()._replicate_for_data_parallel()
