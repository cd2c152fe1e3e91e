"""Attaching to NVIDIA ModelOpt, beyond the contract of all toolkits."""

import copy

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import AttachError, NotCalibratedError
from support.messages import telling
from support.stacks import IMAGES, TinyLinear, modelopt_folded, modelopt_network

pytest.importorskip("modelopt")
pytestmark = pytest.mark.filterwarnings("ignore")


def quantized(model: nn.Module, algorithm: str | None = "max", **options: object) -> nn.Module:
    import modelopt.torch.quantization as mtq

    rules = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*5.weight_quantizer", "cfg": options, "enable": True},
    ]
    config = {"quant_cfg": rules, "algorithm": algorithm}
    return mtq.quantize(model, config, lambda network: network(IMAGES))


def test_codes_that_live_in_a_hook_alone_are_lost_when_weights_are_folded() -> None:
    model = modelopt_network(axis=0)
    weights = qs.attach(model)
    for weight in weights:
        half = torch.rand(weight.latent.shape) < 0.5
        weight.freeze(half, weight.codes())
        weight.latent.data += 0.7 * weight.scale * torch.randn(weight.latent.shape)
    unpinned = copy.deepcopy(model)
    for module in unpinned.modules():
        module._forward_hooks.clear()
    alone = qs.audit(weights, modelopt_folded(unpinned))
    assert alone.frozen_lost > 100
    assert {why for layer in alone.layers for why in layer.reasons} == {
        "latent weight not at the frozen code"
    }
    weights.before_convert()
    assert qs.audit(weights, modelopt_folded(model)).changed == 0


def test_folding_without_notice_is_named() -> None:
    model = modelopt_network(axis=0)
    weights = qs.attach(model)
    modelopt_folded(model)
    with pytest.raises(AttachError, match=telling("c1: ", "before_convert")):
        qs.audit(weights, model)


def test_blocks_have_a_scale_each() -> None:
    model = modelopt_network(block_sizes={-1: 32, "type": "static"})
    first, second = qs.attach(model)
    assert (first.name, second.name) == ("3", "5")
    assert first.scale.shape == (32, 288)
    assert len(first.scale.unique()) > 100


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_bits": (4, 3), "axis": None}, "number format"),
        ({"num_bits": 4, "block_sizes": {-1: 16, "type": "dynamic"}}, "dynamic"),
        ({"num_bits": 4, "block_sizes": {0: 5}}, "other dimensions"),
    ],
)
def test_unsupported_quantizers_are_named(options: dict, told: str) -> None:
    model = quantized(TinyLinear(), None, **options)
    with pytest.raises(AttachError, match=telling("5: ", told, "exclude")):
        qs.attach(model)


def test_an_uncalibrated_range_is_named() -> None:
    with pytest.raises(NotCalibratedError, match=telling("5: ", "forward_loop")):
        qs.attach(quantized(TinyLinear(), None, num_bits=4, axis=0))


def test_a_channel_of_zeros_has_code_0() -> None:
    model = TinyLinear()
    model[5].weight.data[2] = 0
    (weight,) = qs.attach(quantized(model, num_bits=4, axis=0))
    assert not weight.codes()[2].any()
    assert weight.codes()[1].any()


def test_the_saved_state_of_modelopt_has_the_same_codes(tmp_path) -> None:
    import modelopt.torch.opt as mto

    model = modelopt_network(axis=0)
    weights = qs.attach(model)
    mto.save(model, tmp_path / "model.pt")
    from support.stacks import Tiny

    other = mto.restore(Tiny(nn.Conv2d, nn.Linear), tmp_path / "model.pt")
    for one, two in zip(weights, qs.attach(other), strict=True):
        assert torch.equal(one.codes(), two.codes())
