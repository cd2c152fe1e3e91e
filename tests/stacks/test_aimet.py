"""Attaching to AIMET, beyond the contract of all toolkits."""

from pathlib import Path

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import AttachError, NotCalibratedError
from support.messages import telling
from support.stacks import IMAGES, Tiny, aimet_file, aimet_network

pytest.importorskip("aimet_torch")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_codes_that_live_in_a_hook_alone_are_lost_in_the_export(tmp_path: Path) -> None:
    model = aimet_network()
    weights = qs.attach(model)
    for weight in weights:
        half = torch.rand(weight.latent.shape) < 0.5
        weight.freeze(half, weight.codes())
        weight.latent.data += 0.7 * weight.scale * torch.randn(weight.latent.shape)
    trained = weights.read()
    for weight in weights:  # as when a checkpoint is loaded for the export
        weight._handle.remove()
    alone = qs.audit(weights, aimet_file(model, tmp_path))
    assert alone.frozen_lost > 100
    assert {why for layer in alone.layers for why in layer.reasons} == {
        "latent weight not at the frozen code"
    }
    weights.before_convert()
    audit = qs.audit(weights, aimet_file(model, tmp_path))
    assert audit.changed == 0
    assert trained.keys() == {layer.name for layer in audit.layers}


def test_both_ends_of_a_learned_range_get_the_gradient_of_the_frozen_codes() -> None:
    model = aimet_network()
    weight = next(each for each in qs.attach(model) if each.name == "fc")
    codes = torch.randint(-8, 8, weight.latent.shape)
    weight.freeze(torch.ones_like(codes, dtype=torch.bool), codes)
    upstream = torch.randn(codes.shape)
    emitted = weight.module.param_quantizers["weight"](weight.latent)
    (emitted * upstream).sum().backward()
    low, high = weight.scale_parameters
    of_scale = (upstream * codes).sum(1, keepdim=True)
    torch.testing.assert_close(high.grad, of_scale / 15)
    torch.testing.assert_close(low.grad, -of_scale / 15)


def test_a_range_without_a_value_is_named() -> None:
    from aimet_torch.quantsim import QuantizationSimModel

    sim = QuantizationSimModel(Tiny(nn.Conv2d, nn.Linear), IMAGES, default_param_bw=4)
    sim.model.c1.param_quantizers["weight"].min = None
    with pytest.raises(NotCalibratedError, match=telling("c1: ", "compute_encodings")):
        qs.attach(sim.model)


def test_unsupported_quantizers_are_named() -> None:
    from aimet_torch.quantization.float import FloatQuantizeDequantize

    model = aimet_network()
    model.c2.param_quantizers["weight"] = FloatQuantizeDequantize(4, 3)
    with pytest.raises(AttachError, match=telling("c2: ", "FloatQuantizeDequantize", "exclude")):
        qs.attach(model)
    assert [weight.name for weight in qs.attach(model, exclude=["c2"])] == ["c1", "fc"]


def test_audit_wants_the_exported_file(tmp_path: Path) -> None:
    weights = qs.attach(model := aimet_network())
    with pytest.raises(AttachError, match=telling("sim.export", "Tiny")):
        qs.audit(weights, model)
    path = aimet_file(model, tmp_path)
    path.with_suffix(".encodings").unlink()
    with pytest.raises(AttachError, match=telling("network.encodings")):
        qs.audit(weights, path)
