"""Attaching to torchao's `quantize_`, beyond the contract of all toolkits."""

import copy

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import AttachError, NotCalibratedError
from support.messages import telling
from support.stacks import IMAGES, TinyLinear, torchao_converted, torchao_network

pytest.importorskip("torchao")
pytestmark = pytest.mark.filterwarnings("ignore")


def prepared(model: nn.Module, config: object) -> nn.Module:
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    def chosen(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear | nn.Embedding)

    quantize_(model, QATConfig(weight_config=config, step="prepare"), chosen)
    return model


def trained(model: nn.Module) -> nn.Module:
    """With weights that have moved away from those that set a fixed scale."""
    moved = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=moved)
        parameter.data += 0.3 * parameter.abs().mean() * noise
    return model


def test_a_fixed_scale_is_dropped_by_the_conversion_unless_it_is_told() -> None:
    model = torchao_network(is_dynamic=False)
    weights = qs.attach(trained(model))
    alone = qs.audit(weights, torchao_converted(copy.deepcopy(model)))
    assert alone.changed > 500
    reasons = [layer.reasons for layer in alone.layers]
    assert all(set(each) == {"the conversion drops fixed scales"} for each in reasons)
    weights.before_convert()
    assert qs.audit(weights, torchao_converted(model)).changed == 0


def test_codes_that_live_in_a_hook_alone_are_lost_by_the_conversion() -> None:
    model = torchao_network()
    weights = qs.attach(model)
    for weight in weights:
        half = torch.rand(weight.latent.shape) < 0.5
        weight.freeze(half, weight.codes())
        weight.latent.data += 0.7 * weight.scale * torch.randn(weight.latent.shape)
    alone = qs.audit(weights, torchao_converted(copy.deepcopy(model)))
    assert alone.frozen_lost > 1000
    weights.before_convert()
    assert qs.audit(weights, torchao_converted(model)).changed == 0


def test_freezing_holds_the_scale_that_would_walk() -> None:
    """absmax/7.5 of a pinned largest weight, 7 scales, is smaller at each step."""
    model = torchao_network()
    (weight, _) = qs.attach(model)
    assert weight.site.follows_weight
    codes = weight.codes()
    weight.freeze(torch.ones_like(codes, dtype=torch.bool), codes)
    for _ in range(5):
        weight.begin_step()
        weight.write_back()
        assert torch.equal(weight.site.read().codes.to(torch.int8), codes)
    assert list(model.state_dict()) == list(TinyLinear().state_dict())


def test_embeddings_are_followed() -> None:
    from torchao.quantization.qat import IntxFakeQuantizeConfig

    config = IntxFakeQuantizeConfig(torch.int4, group_size=8)
    model = prepared(nn.Sequential(nn.Embedding(6, 16), nn.Linear(16, 3)), config)
    weights = qs.attach(model)
    assert [tuple(weight.latent.shape) for weight in weights] == [(6, 16), (3, 16)]
    weight = weights[0]
    weight.freeze(torch.ones(6, 16, dtype=torch.bool), torch.full((6, 16), 2))
    torch.testing.assert_close(model[0](torch.tensor([4])), 2 * weight.scale[4:5])


def test_unsupported_quantizers_are_named() -> None:
    from torchao.quantization import PerRow
    from torchao.quantization.qat import (
        Float8FakeQuantizeConfig,
        IntxFakeQuantizeConfig,
    )
    from torchao.quantization.qat.fake_quantize_config import Int4WeightFakeQuantizeConfig

    for config, told in [
        (Float8FakeQuantizeConfig(torch.float8_e4m3fn, PerRow()), "Float8FakeQuantizer"),
        (Int4WeightFakeQuantizeConfig(group_size=32), "Int4WeightFakeQuantizer"),
        (
            IntxFakeQuantizeConfig(
                torch.int4, group_size=32, is_symmetric=False, is_dynamic=False, range_learning=True
            ),
            "zero point",
        ),
    ]:
        with pytest.raises(AttachError, match=telling("3: ", told)):
            qs.attach(prepared(TinyLinear(), config))


def test_scales_without_a_value_are_named() -> None:
    from torchao.quantization.qat import IntxFakeQuantizeConfig

    for options, told in [
        ({"range_learning": True}, "initialize_fake_quantizers"),
        ({}, "example_input"),
    ]:
        config = IntxFakeQuantizeConfig(torch.int4, group_size=32, is_dynamic=False, **options)
        model = prepared(TinyLinear(), config)
        with pytest.raises(NotCalibratedError, match=telling("3: ", told)):
            qs.attach(model)
    assert len(qs.attach(model, IMAGES)) == 2


def test_audit_wants_what_the_conversion_returned() -> None:
    weights = qs.attach(torchao_network())
    with pytest.raises(AttachError, match=telling("3", "is not in")):
        qs.audit(weights, nn.Sequential())
    with pytest.raises(AttachError, match=telling("3", "Parameter", "IntxWeightOnlyConfig")):
        qs.audit(weights, TinyLinear())


def test_a_broken_scale_is_named() -> None:
    model = torchao_network(is_dynamic=False, range_learning=True)
    weights = qs.attach(model)
    weights[0].scale_parameters[0].data.fill_(-0.01)
    with pytest.raises(qs.QuiesceError, match=telling("3: ", "learning rate")):
        qs.OscillationTracker(weights).step()
