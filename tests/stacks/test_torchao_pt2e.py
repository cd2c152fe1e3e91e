"""Attaching to torchao's PT2E, beyond the contract of all toolkits."""

import copy

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import AttachError, NotCalibratedError
from quiesce.stacks.attached import Attached
from support.messages import telling
from support.stacks import IMAGES, _pt2e_prepared, pt2e_converted, pt2e_network

pytest.importorskip("torchao")
pytest.importorskip("executorch")
pytestmark = pytest.mark.filterwarnings("ignore")


def fake_of(weights: Attached, name: str) -> nn.Module:
    return next(weight for weight in weights if weight.name == name).module


def test_the_formula_of_the_conversion_changes_codes_unless_it_is_told() -> None:
    model = pt2e_network("XNNPACK, no batch norm")
    weights = qs.attach(model)
    with torch.no_grad():  # an oscillating weight is near a threshold
        for weight in weights:
            near = torch.rand(weight.latent.shape) < 0.5
            now = weight.site.read()
            fold = 1 if now.fold is None else now.fold
            edge = now.scale * (now.codes.clamp(-6, 6) + 0.49) / fold
            weight.latent.copy_(torch.where(near, edge, weight.latent))
    for weight in weights:
        weight.hold_grid()
    told = copy.deepcopy(model)
    alone = qs.audit(weights, pt2e_converted(copy.deepcopy(model)))
    assert alone.changed > 20
    why = {text for layer in alone.layers for text in layer.reasons}
    assert "the conversion has another formula for the scale" in why
    assert not torch.allclose(torch.tensor(alone.layers[0].scale_ratio), torch.ones(2), rtol=1e-3)
    for weight, other in zip(weights, qs.attach(told), strict=True):
        assert torch.equal(weight.codes(), other.codes())
    weights.before_convert()
    audit = qs.audit(weights, pt2e_converted(model))
    assert audit.changed == 0, str(audit)


def test_names_and_kinds_are_those_of_the_layers() -> None:
    weights = qs.attach(pt2e_network("XNNPACK"))
    found = {weight.name: weight.kind for weight in weights}
    assert found == {"c1": "full", "c2": "depth-wise", "fc": "linear"}


def test_codes_that_change_with_batch_statistics_alone_are_no_flips() -> None:
    model = pt2e_network("XNNPACK")
    weights = qs.attach(model)
    tracker = qs.OscillationTracker(weights)
    tracker.step()
    codes = {weight.name: weight.codes() for weight in weights}
    for _ in range(20):
        model(3 * IMAGES)
    tracker.step()
    report = {layer.name: layer for layer in tracker.report()}
    changed = int((weights[0].codes() != codes["c1"]).sum())
    assert weights[0].name == "c1"
    assert changed > 20
    assert report["c1"].total_grid_changes == changed
    assert report["c1"].flips_per_step == 0


def test_quantizers_that_are_not_ready_are_named() -> None:
    model = copy.deepcopy(_pt2e_prepared("X86, no batch norm"))
    with pytest.raises(NotCalibratedError, match=telling("0: ", "example_input")):
        qs.attach(model)
    weights = qs.attach(model, IMAGES)
    assert [weight.name for weight in weights] == ["0", "3", "5"]
    fake_of(weights, "3").disable_fake_quant()
    with pytest.raises(AttachError, match=telling("3: ", "enable_fake_quant")):
        qs.attach(model)
    assert len(qs.attach(model, exclude=["3"])) == 2


def test_audit_wants_the_converted_graph() -> None:
    weights = qs.attach(pt2e_network("X86, no batch norm"))
    with pytest.raises(AttachError, match=telling("convert_pt2e", "Linear")):
        qs.audit(weights, nn.Linear(2, 2))
    with pytest.raises(AttachError, match=telling("0 weights of integers", "3")):
        qs.audit(weights, pt2e_network("X86, no batch norm"))


def test_freezing_disables_the_observers_of_the_frozen_layers() -> None:
    model = pt2e_network("XNNPACK")
    weights = qs.attach(model)
    weights[0].freeze(torch.zeros_like(weights[0].latent, dtype=torch.bool), weights[0].codes())
    scale = weights[0].site.read().scale
    for _ in range(5):
        model(2 * IMAGES)
    assert torch.equal(weights[0].site.read().scale, scale)
    assert [int(weight.module.observer_enabled) for weight in weights] == [0, 1, 1]
