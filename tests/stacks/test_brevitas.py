"""Attaching to Brevitas, beyond the contract of all toolkits."""

from pathlib import Path

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import AttachError, NotCalibratedError
from support.messages import telling
from support.stacks import brevitas_file, brevitas_network

pytest.importorskip("brevitas")
pytestmark = pytest.mark.filterwarnings("ignore")


def quantizer(name: str):
    import brevitas.quant

    return getattr(brevitas.quant, name)


def network(name: str = "Int8WeightPerTensorFloat", **options: object) -> nn.Module:
    return brevitas_network(weight_quant=quantizer(name), **options)


def layer(**options: object) -> nn.Module:
    import brevitas.nn as qnn

    return qnn.QuantLinear(16, 4, bias=False, **options)


def test_a_code_that_changes_with_the_grid_alone_is_no_flip() -> None:
    model = network()
    weights = qs.attach(model)
    tracker = qs.OscillationTracker(weights)
    tracker.step()
    weight = next(each for each in weights if each.name == "c2")
    codes = weight.codes()
    with torch.no_grad():  # the largest weight decides the scale of all
        weight.latent.view(-1)[weight.latent.abs().argmax()] *= 1.3
    tracker.step()
    changed = int((weight.codes() != codes).sum())
    report = {layer.name: layer for layer in tracker.report()}
    assert changed > 3
    assert report["c2"].total_grid_changes == changed
    assert report["c2"].flips_per_step == 0
    assert tracker.summary().total_grid_changes == changed


def test_what_grid_and_weight_change_together_is_split_between_them() -> None:
    model = network()
    weights = qs.attach(model)
    tracker = qs.OscillationTracker(weights)
    tracker.step()
    weight = next(each for each in weights if each.name == "c2")
    codes, moved = weight.codes(), 5
    with torch.no_grad():
        latent = weight.latent.view(-1)
        latent[latent.abs().argmax()] *= 1.3
        small = (codes.view(-1) == 0).nonzero().view(-1)[:moved]
        latent[small] = 1.2 * weight.scale  # code 1 on either grid
    tracker.step()
    report = {layer.name: layer for layer in tracker.report()}["c2"]
    changed = int((weight.codes() != codes).sum())
    assert report.flips_per_step == moved
    assert report.total_grid_changes == changed - moved


def test_scales_of_statistics_stay_as_they_are_once_weights_are_frozen() -> None:
    model = network("Int8WeightPerChannelFloat", weight_narrow_range=False)
    weights = qs.attach(model)
    before = {weight.name: weight.scale.clone() for weight in weights}
    for weight in weights:
        weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
    weights.detach()
    for _ in range(4):  # else the largest positive weight would shrink the scale again and again
        again = qs.attach(model)
        for weight in again:
            torch.testing.assert_close(weight.scale, before[weight.name], rtol=0, atol=0)
            weight.latent.data.copy_(weight.quantized())
        again.detach()


def test_a_held_scale_outlives_a_loaded_state() -> None:
    model = network()
    weights = qs.attach(model)
    for weight in weights:
        weight.hold_grid()
    state = {name: value * 1.5 for name, value in model.state_dict().items()}
    scales = {weight.name: weight.scale.clone() for weight in weights}
    model.load_state_dict(state)
    for weight in weights:
        assert torch.equal(weight.site.read().scale, scales[weight.name])
    assert list(model.state_dict()) == list(state)


def test_export_of_a_network_that_is_not_told_of_it_is_audited_too(tmp_path: Path) -> None:
    """Frozen codes in the hook alone, as in code that only overrides the forward pass."""
    model = network()
    weights = qs.attach(model)
    for weight in weights:
        weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
        weight.latent.data.add_(2 * weight.scale)  # what momentum does without a pin
    trained = weights.read()
    for weight in weights:
        weight._handle.remove()
    audit = qs.audit(weights, brevitas_file(model, tmp_path))
    assert audit.frozen_lost == audit.changed > 100
    layer = audit.layers[0]
    assert layer.reasons == {"latent weight not at the frozen code": layer.changed}
    assert f"{audit.changed} of" in str(audit)
    weights.trained = trained
    weights.before_convert()
    assert qs.audit(weights, brevitas_file(model, tmp_path)).changed == 0


def test_audit_wants_a_file_of_this_network(tmp_path: Path) -> None:
    weights = qs.attach(network())
    with pytest.raises(AttachError, match=telling("export_onnx_qcdq", "Sequential")):
        qs.audit(weights, nn.Sequential())
    with pytest.raises(AttachError, match=telling("missing.onnx")):
        qs.audit(weights, tmp_path / "missing.onnx")


def test_a_learned_scale_has_the_gradient_of_the_frozen_codes() -> None:
    model = layer(
        weight_quant=quantizer("Int8WeightPerTensorFloat"),
        weight_bit_width=3,
        weight_scaling_impl_type="parameter_from_stats",
    )
    inputs = torch.randn(8, 16)
    (weight,) = qs.attach(model, inputs)
    codes = torch.randint(-3, 4, weight.latent.shape)
    weight.freeze(torch.ones_like(codes, dtype=torch.bool), codes)
    model(inputs).sum().backward()
    upstream = inputs.sum(0).expand_as(codes)  # of the quantized weight
    (scale,) = weight.scale_parameters
    per_threshold = weight.scale / scale.detach()  # the parameter is scale * quant_max
    torch.testing.assert_close(scale.grad, (upstream * codes).sum() * per_threshold)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"weight_quant": "Int8WeightPerChannelFloatDecoupled"}, "Decoupled"),
        ({"weight_quant": "SignedBinaryWeightPerTensorConst"}, "BinaryQuant"),
        ({"weight_quant": "Int8AccumulatorAwareWeightQuant"}, "DecoupledRescalingIntQuant"),
        ({"weight_quant": "Int8WeightPerTensorFloat", "weight_quant_delay_steps": 3}, "3 more"),
        (
            {
                "weight_quant": "Int8WeightPerTensorFloat",
                "weight_bit_width_impl_type": "parameter",
            },
            "number of bits",
        ),
    ],
)
def test_unsupported_quantizers_are_named(options: dict, told: str) -> None:
    options["weight_quant"] = quantizer(options["weight_quant"])
    model = nn.Sequential(
        layer(**options), layer(weight_quant=quantizer("Int8WeightPerTensorFloat"))
    )
    with pytest.raises(AttachError, match=telling("0: ", told)):
        qs.attach(model)
    (weight,) = qs.attach(model, exclude=["0"])
    assert weight.name == "1"


def test_float_quantizers_are_named() -> None:
    from brevitas.quant.experimental.float import Fp8e4m3WeightPerTensorFloat

    with pytest.raises(AttachError, match=telling("FloatQuant")):
        qs.attach(layer(weight_quant=Fp8e4m3WeightPerTensorFloat))


def test_a_learned_scale_needs_one_forward_pass() -> None:
    options = {"weight_scaling_impl_type": "parameter_from_stats"}
    model = layer(weight_quant=quantizer("Int8WeightPerTensorFloat"), **options)
    with pytest.raises(NotCalibratedError, match=telling("example_input")):
        qs.attach(model)
    assert qs.attach(model, torch.randn(1, 16))


def test_a_reloaded_learned_scale_is_noticed() -> None:
    model = network(weight_scaling_impl_type="parameter_from_stats")
    weights = qs.attach(model)
    tracker = qs.OscillationTracker(weights)
    tracker.step()
    model.load_state_dict(model.state_dict())  # Brevitas makes new parameters
    with pytest.raises(qs.QuiesceError, match=telling("c1", "scale", "optimizer")):
        tracker.step()


def test_a_version_outside_the_tested_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quiesce.stacks.catalog.version", lambda _: "0.10.2")
    with pytest.raises(AttachError, match=telling("Brevitas", "0.10.2", "pip install")):
        qs.attach(network())


def test_groups_of_inputs_have_a_scale_each() -> None:
    from brevitas.quant.experimental.mx_quant_ocp import MXInt8Weight

    model = layer(weight_quant=MXInt8Weight, weight_bit_width=4, weight_group_size=8)
    inputs = torch.randn(2, 16)
    model(inputs)
    (weight,) = qs.attach(model)
    assert weight.scale.shape == (4, 16)
    torch.testing.assert_close(weight.quantized(), model.quant_weight().value.detach())
    codes = weight.codes()
    weight.freeze(torch.ones_like(codes, dtype=torch.bool), codes.clamp(max=1))
    torch.testing.assert_close(model(inputs), inputs @ (weight.scale * codes.clamp(max=1)).T)


def test_ours_and_theirs_in_one_model() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
    qs.prepare(model, qs.Scheme(weight_bits=3, act_bits=None, exclude=["0"]), torch.zeros(1, 8))
    model[0] = brevitas_network(weight_quant=quantizer("Int8WeightPerTensorFloat")).fc
    weights = qs.attach(model)
    assert [weight.name for weight in weights] == ["0", "2"]
    assert [weight.grid_changes for weight in weights] == [0, None]
