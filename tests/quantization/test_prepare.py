"""Preparing any model, taking it apart again, and models that cannot be prepared as asked."""

import copy
import io
from functools import cache
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import quiesce as qs
from quiesce.errors import NothingToDoError, PrepareError
from quiesce.quantization.quantized_layers import LAYERS, QuantizedLayer
from support.messages import tells
from support.small_networks import prepared_network, small_network, weights_only

NETWORKS = (
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "tf_efficientnet_lite0",
    "resnet18",
    "vit_tiny_patch16_224",
    "torchvision/mobilenet_v2",
)
IMAGES = torch.rand(2, 3, 6, 6)


every_network = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "mobilenetv3_small_100" else pytest.mark.slow)
        for name in NETWORKS
    ],
)


def real_network(name: str) -> tuple[nn.Module, Tensor]:
    """A float network with random weights, and two images that it takes.

    Its batch norms know the images: by their first statistics activations die out on the way, and
    every scale found in inference mode would be too small for training mode.
    """
    torch.manual_seed(0)
    images = torch.randn(2, 3, *2 * [224 if name.endswith("_224") else 64])
    if name.startswith("torchvision/"):
        model = torchvision.models.get_model(name.partition("/")[2], weights=None)
    else:  # a residual branch that starts at zero would have no gradient
        model = timm.create_model(name, **{"zero_init_last": False} if name == "resnet18" else {})
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        qs.reestimate_batchnorm(model, [images])
    return model, images


@cache
def quantized(name: str) -> tuple[nn.Module, Tensor]:
    """The same prepared for 4 bits and calibrated; to be copied, not changed."""
    model, images = real_network(name)
    qs.prepare(model, qs.Scheme(), images)
    return qs.calibrate(model, [images]), images


@every_network
def test_a_real_network_is_quantized_throughout(name: str) -> None:
    model, images = quantized(name)
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    assert all(isinstance(layer, QuantizedLayer) for layer in layers)
    weights = qs.quantized_weights(model)
    assert len(weights) == len(layers)
    assert sorted(w.grid.bits for w in weights) == [4] * (len(layers) - 2) + [8, 8]
    float_inputs = [layer for layer in layers if layer.input_quantizer is None]
    assert len(float_inputs) == 1  # the image
    float_output = real_network(name)[0].eval()(images)
    output = copy.deepcopy(model).eval()(images)
    assert output.isfinite().all()
    assert not torch.equal(output, float_output)


@pytest.mark.slow
@every_network
def test_a_real_network_takes_a_training_step(name: str) -> None:
    model, images = quantized(name)
    model = copy.deepcopy(model).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    nn.functional.cross_entropy(model(images), torch.tensor([1, 2])).backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    optimizer.step()
    for weight in qs.quantized_weights(model):
        assert gradients[f"{weight.name}.weight"].any(), weight.name
        assert not torch.equal(weight.latent, before[f"{weight.name}.weight"]), weight.name
    assert model(images).isfinite().all()


@pytest.mark.slow
@every_network
def test_a_real_network_is_saved_and_loaded_bit_for_bit(name: str) -> None:
    model, images = quantized(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = qs.prepare(real_network(name)[0], qs.Scheme(), images)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(images), copy.deepcopy(model).eval()(images))


@pytest.mark.slow
@every_network
def test_a_real_network_stripped_is_the_quantized_one_with_float_activations(name: str) -> None:
    model, images = quantized(name)
    plain = qs.strip(model).eval()
    assert not any(isinstance(m, QuantizedLayer | qs.FakeQuantizer) for m in plain.modules())
    assert set(plain.state_dict()) == set(real_network(name)[0].state_dict())
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            layer.input_quantizer = None
    assert torch.equal(plain(images), model(images))


def test_prepare_changes_the_model_in_place_and_keeps_its_parameters() -> None:
    model = small_network()
    before = dict(model.named_parameters())
    values = {name: p.clone() for name, p in before.items()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    model[1].eval()
    assert qs.prepare(model, qs.Scheme(), IMAGES) is model
    after = dict(model.named_parameters())
    for name, parameter in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, values[name])
    assert all(torch.equal(model.get_buffer(name), b) for name, b in buffers.items())
    assert [m.training for m in model.children()] == [True, False, *[True] * 5]


class Branches(nn.Module):
    """Calls its layers in another order than it names them, with two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.middle = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)) + y)


@pytest.mark.parametrize(
    "example", [(torch.ones(4), torch.ones(4)), {"y": torch.ones(4), "x": torch.ones(4)}]
)
def test_first_and_last_are_not_by_name(example: Any) -> None:
    model = qs.prepare(Branches(), qs.Scheme(), example)
    bits = {weight.name: weight.grid.bits for weight in qs.quantized_weights(model)}
    assert bits == {"last": 8, "first": 8, "middle": 4}
    assert model.first.input_quantizer is None
    assert model.last.input_quantizer.bits == 8
    assert model.middle.input_quantizer.bits == 4


def test_overrides_and_exclusion_reach_the_layers() -> None:
    scheme = qs.Scheme(exclude=["3"], overrides={"0": {"weight_bits": 2, "per_channel": True}})
    model = qs.prepare(small_network(), scheme, IMAGES)
    assert type(model[3]) is nn.Conv2d
    assert [w.name for w in qs.quantized_weights(model)] == ["0", "6"]
    assert qs.quantized_weights(model)[0].grid == qs.Grid(2, signed=True)
    assert model[0].weight_quantizer.scale.shape == (4, 1, 1, 1)


def test_weight_scales_are_found_at_once() -> None:
    model = qs.prepare(small_network(), weights_only(ranges="minmax"), IMAGES)
    for weight in qs.quantized_weights(model):
        assert weight.scale == weight.latent.detach().aminmax().min.abs().clamp_min(
            weight.latent.detach().max() * 4 / 3
        ).div(4)
    assert model(IMAGES).isfinite().all()


def test_strip_leaves_the_model_as_it_is() -> None:
    model = prepared_network()
    state = copy.deepcopy(model.state_dict())
    plain = qs.strip(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model(IMAGES).sum().backward()


def test_strip_keeps_codes_that_are_frozen() -> None:
    model = prepared_network()
    [weight, *_] = qs.quantized_weights(model)
    weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), -weight.codes().clamp(-3, 3))
    weight.latent.data.zero_()
    plain = qs.strip(model)
    assert torch.equal(plain[0].weight, weight.scale * weight.codes())
    assert plain[0].weight.any()


def test_strip_is_exact_in_float64() -> None:
    model = small_network().double()
    qs.prepare(model, weights_only(per_channel=True), IMAGES.double())
    assert torch.equal(qs.strip(model)(IMAGES.double()), model(IMAGES.double()))


@pytest.mark.parametrize("act_bits", [None, 4])
def test_weights_of_zeros_and_a_constant_input_stay_finite(act_bits: int | None) -> None:
    model = small_network()
    with torch.no_grad():
        model[0].weight.zero_()
        model[3].weight[1] = 0
    images = torch.full((4, 3, 6, 6), 0.7)
    qs.prepare(model, weights_only(act_bits=act_bits, per_channel=True), images)
    qs.calibrate(model, [images])
    assert model[0].weight_quantizer.scale.unique().item() == 1  # the rule for nothing to measure
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model(images).isfinite().all()


def refused(model: nn.Module, scheme: qs.Scheme, example: Any = IMAGES) -> str:
    """The message of the refusal, after which the model is what it was."""
    kinds = [type(module) for module in model.modules()]
    names = list(model.state_dict())
    with pytest.raises(PrepareError) as caught:
        qs.prepare(model, scheme, example)
    assert [type(module) for module in model.modules()] == kinds
    assert list(model.state_dict()) == names
    return str(caught.value)


def test_a_layer_that_no_forward_reaches_is_refused_and_can_be_left_out() -> None:
    model = small_network()
    model[0].spare = nn.Linear(3, 3)
    message = refused(model, weights_only())
    assert "0.spare: the forward does not call it" in message
    assert "Scheme(exclude=['0.spare'])" in message
    qs.prepare(model, weights_only(exclude=["0.spare"]), IMAGES)
    assert type(model[0].spare) is nn.Linear


def test_a_layer_whose_weight_is_read_past_its_forward_is_refused() -> None:
    model = nn.MultiheadAttention(4, 2)
    example = (torch.ones(3, 1, 4),) * 3
    assert "out_proj: another module multiplies" in refused(model, weights_only(), example)


def test_a_computed_weight_is_refused_and_can_be_left_out() -> None:
    model = small_network()
    parametrizations.weight_norm(model[3])
    message = refused(model, weights_only())
    assert "3: a parametrization" in message
    qs.prepare(model, weights_only(exclude=["3"]), IMAGES)
    assert [w.name for w in qs.quantized_weights(model)] == ["0", "6"]


def test_a_mistyped_pattern_is_refused_with_the_nearest_name() -> None:
    message = refused(Branches(), weights_only(exclude=["midle"]), (torch.ones(4),) * 2)
    assert tells(message, "exclude", "'midle'", "'middle'")


def test_a_model_is_prepared_once() -> None:
    assert "prepared already" in refused(prepared_network(), weights_only())
    qs.prepare(qs.strip(prepared_network()), weights_only(), IMAGES)


@pytest.mark.parametrize(
    ("model", "scheme", "message"),
    [
        (nn.ReLU(), weights_only(), "ReLU has no convolution and no linear layer"),
        (small_network(), weights_only(exclude=["*"]), "leave no layer to quantize"),
    ],
)
def test_nothing_to_quantize_is_refused(model, scheme, message) -> None:
    with pytest.raises(NothingToDoError, match=message):
        qs.prepare(model, scheme, IMAGES)


def test_a_forward_that_fails_leaves_no_hook_and_no_mode_behind() -> None:
    model = small_network()
    with pytest.raises(RuntimeError, match="channels"):
        qs.prepare(model, weights_only(), torch.rand(2, 5, 6, 6))
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())
    qs.prepare(model, weights_only(), IMAGES)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("function", [qs.quantized_weights, qs.strip])
def test_a_float_model_has_nothing_to_give(function) -> None:
    with pytest.raises(NothingToDoError, match=r"call quiesce\.prepare first"):
        function(small_network())


def test_quantizer_parameters_are_all_scales_and_offsets() -> None:
    model = prepared_network(act_bits=4, learn_offset=True)
    expected = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if name.endswith(("quantizer.scale", "quantizer.offset"))
    }
    found = qs.quantizer_parameters(model)
    assert {id(parameter) for parameter in found} == expected
    assert len(found) == 3 + 2 * 2  # the image has no quantizer


def test_an_optimizer_from_before_still_moves_the_network() -> None:
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    qs.prepare(model, weights_only(), IMAGES)
    before = model(IMAGES)
    model(IMAGES).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model(IMAGES), before)


def test_strip_of_a_model_without_scales_is_refused() -> None:
    model = prepared_network()
    model.load_state_dict(small_network().state_dict())
    with pytest.raises(qs.QuiesceError, match=r"call quiesce\.calibrate"):
        qs.strip(model)
