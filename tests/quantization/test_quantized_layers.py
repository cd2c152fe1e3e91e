"""Quantized layers: every kind computes what its float class would with quantized numbers."""

import copy
import io
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import NotCalibratedError
from support.small_networks import prepared_network, small_network, weights_only


class ScaledLinear(nn.Linear):
    """A subclass with a forward, an argument and an attribute of its own."""

    def __init__(self, *args: Any, gain: float) -> None:
        super().__init__(*args)
        self.gain = gain

    def forward(self, input: Tensor, shift: float = 0.0) -> Tensor:
        return super().forward(input) * self.gain + shift


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular"), (2, 4, 8, 8)),
    "conv3d": (nn.Conv3d(2, 4, 3, dilation=2), (2, 2, 6, 6, 6)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 9)),
    "transposed2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    "transposed3d": (nn.ConvTranspose3d(2, 4, 2), (2, 2, 4, 4, 4)),
    "linear": (nn.Linear(5, 7), (2, 3, 5)),
    "linear_without_bias": (nn.Linear(5, 7, bias=False), (2, 5)),
    "conv2d_same": (Conv2dSame(4, 6, 3, stride=2), (2, 4, 7, 7)),
    "subclass": (ScaledLinear(5, 7, gain=3.0), (2, 5)),
}
both = pytest.mark.parametrize("per_channel", [False, True], ids=["per_tensor", "per_channel"])


def quantized(kind: str, per_channel: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """The float layer, the same prepared for 3 bits and calibrated, and an input."""
    layer, shape = LAYERS[kind]
    x = torch.randn(shape)
    scheme = weights_only(first_input_bits=3, per_channel=per_channel)
    made = qs.prepare(copy.deepcopy(layer), scheme, x)
    return layer, qs.calibrate(made, [x]), x


@both
@pytest.mark.parametrize("kind", LAYERS)
def test_computes_what_its_class_does_with_quantized_numbers(kind: str, per_channel: bool) -> None:
    layer, made, x = quantized(kind, per_channel)
    by_hand = copy.deepcopy(layer)
    weight, grid = layer.weight, qs.Grid(3, signed=True)
    scale = made.weight_quantizer.scale
    by_hand.weight = nn.Parameter(qs.fake_quantize(weight, scale, grid))
    rounded = qs.fake_quantize(x, made.input_quantizer.scale, grid)
    assert not torch.equal(rounded, x)
    assert torch.equal(made(x), by_hand(rounded))
    assert isinstance(made, type(layer))


@both
@pytest.mark.parametrize("kind", LAYERS)
def test_latent_scale_and_bias_all_learn(kind: str, per_channel: bool) -> None:
    _, made, x = quantized(kind, per_channel)
    made(x).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", LAYERS)
def test_channels_of_the_scale_are_those_of_the_output(kind: str) -> None:
    layer, made, _ = quantized(kind, per_channel=True)
    dim = 1 if kind.startswith("transposed") else 0
    shape = made.weight_quantizer.scale.shape
    assert shape == tuple(n if i == dim else 1 for i, n in enumerate(layer.weight.shape))


@pytest.mark.parametrize("kind", LAYERS)
def test_the_state_dict_keeps_the_float_names(kind: str) -> None:
    layer, made, _ = quantized(kind, per_channel=False)
    added = {f"input_quantizer.{name}" for name in ("scale", "limits")}
    added |= {f"weight_quantizer.{name}" for name in ("scale", "limits", "history")}
    assert set(made.state_dict()) == set(layer.state_dict()) | added
    for name, value in layer.state_dict().items():
        assert torch.equal(made.state_dict()[name], value)


@pytest.mark.parametrize("kind", LAYERS)
def test_copies_and_pickles_compute_the_same_and_share_nothing(kind: str) -> None:
    _, made, x = quantized(kind, per_channel=True)
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    expected = made(x)
    for other in (copy.deepcopy(made), torch.load(file, weights_only=False)):
        assert type(other) is type(made)
        assert torch.equal(other(x), expected)
        for mine, theirs in zip(made.parameters(), other.parameters(), strict=True):
            assert mine is not theirs
            theirs.data.add_(1)
    assert torch.equal(made(x), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_strip_gives_the_float_class_back(kind: str) -> None:
    layer, made, x = quantized(kind, per_channel=True)
    plain = qs.strip(made)
    assert type(plain) is type(layer)
    assert set(plain.state_dict()) == set(layer.state_dict())
    assert set(vars(plain)) == set(vars(layer))
    made.input_quantizer = None
    assert torch.equal(plain(x), made(x))


def test_arguments_of_a_subclass_reach_its_forward() -> None:
    _, made, x = quantized("subclass", per_channel=False)
    torch.testing.assert_close(made(x, shift=2.0), made(x) + 2)
    torch.testing.assert_close(made(x, 2.0), made(x) + 2)


def test_the_weight_is_the_latent_again_after_a_forward_that_fails() -> None:
    _, made, x = quantized("linear", per_channel=False)
    latent = made.latent
    made(x)
    assert made.weight is latent
    with pytest.raises(RuntimeError, match="shapes"):
        made(x[..., :-1])
    assert made.weight is latent


def test_a_new_weight_can_be_assigned() -> None:
    _, made, x = quantized("linear", per_channel=False)
    new = nn.Parameter(torch.zeros_like(made.latent))
    made.weight = new
    assert made.latent is new
    assert torch.equal(made(x), made.bias.expand_as(made(x)))


def test_a_float_checkpoint_loads_and_asks_for_calibration() -> None:
    images = torch.rand(2, 3, 6, 6)
    float_model = small_network()
    model = prepared_network(act_bits=4)
    model.load_state_dict(float_model.state_dict(), strict=True)
    for mine, theirs in zip(model[0].parameters(), float_model[0].parameters(), strict=False):
        assert torch.equal(mine, theirs)
    with pytest.raises(NotCalibratedError, match=r"0\.weight has no scale yet"):
        model(images)
    qs.calibrate(model, [images])
    other = qs.prepare(copy.deepcopy(float_model), weights_only(act_bits=4), images)
    assert torch.equal(model.eval()(images), qs.calibrate(other, [images]).eval()(images))


def test_a_float_checkpoint_forgets_what_was_frozen() -> None:
    model = prepared_network()
    checkpoint = small_network().state_dict()
    for weight in qs.quantized_weights(model):
        mask = torch.ones_like(weight.latent, dtype=torch.bool)
        weight.freeze(mask, weight.codes())
    model.load_state_dict(checkpoint)
    qs.calibrate(model, [torch.rand(2, 3, 6, 6)])
    for weight in qs.quantized_weights(model):
        assert not weight.frozen.any()
        assert torch.equal(weight.latent, checkpoint[f"{weight.name}.weight"])
        expected = weight.grid.codes(weight.latent.detach(), weight.scale)
        assert torch.equal(weight.codes(), expected.to(torch.int8))


def test_a_quantized_checkpoint_goes_on_in_another_process() -> None:
    images = torch.rand(2, 3, 6, 6)
    model = prepared_network(act_bits=4)
    [first, *_] = qs.quantized_weights(model)
    first.freeze(first.codes() > 0, first.codes())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = qs.prepare(small_network(), weights_only(act_bits=4), images)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(images), model.eval()(images))
    for mine, theirs in zip(qs.quantized_weights(model), qs.quantized_weights(other), strict=True):
        assert torch.equal(mine.frozen, theirs.frozen)
        assert torch.equal(mine.codes(), theirs.codes())


def test_a_missing_key_of_a_quantized_checkpoint_is_still_missed() -> None:
    model = prepared_network()
    state = model.state_dict()
    del state["0.weight_quantizer.scale"], state["3.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_quantizer\.scale.*3\.weight"):
        model.load_state_dict(state)


@pytest.mark.parametrize("when", ["before", "after"])
def test_channels_last_is_computed_and_tracked_alike(when: str) -> None:
    torch.manual_seed(1)
    x = torch.rand(2, 3, 6, 6)
    plain = prepared_network(per_channel=True)
    other = small_network()
    other.load_state_dict({k: v for k, v in plain.state_dict().items() if "quantizer" not in k})
    if when == "before":
        other.to(memory_format=torch.channels_last)
    qs.prepare(other, weights_only(per_channel=True), x)
    if when == "after":
        other.to(memory_format=torch.channels_last)
    models = (plain, other)
    trackers = [qs.OscillationTracker(qs.quantized_weights(model), 0.1) for model in models]
    noise = [torch.randn(6, *w.latent.shape) for w in trackers[0].weights]
    for step in range(6):
        for tracker in trackers:
            for weight, moves in zip(tracker.weights, noise, strict=True):
                weight.latent.data.copy_(moves[step] * weight.scale)
            tracker.step()
    for one, two in zip(*(tracker.weights for tracker in trackers), strict=True):
        assert torch.equal(one.codes(), two.codes())
        frequencies = (t.frequency(one.name) for t in trackers)
        assert torch.equal(*frequencies)
    image = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(other.eval()(image), plain.eval()(x))
    emitted = other[0].weight_quantizer(other[0].latent)
    assert emitted.stride() == other[0].latent.stride()
