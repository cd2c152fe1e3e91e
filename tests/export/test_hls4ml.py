"""The target hls4ml: numbers, widths and refusals; its emulation where it is installed.

tests/contracts/test_targets.py has what every target promises.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quiesce as qs
from export.networks import Residual, calibrated, mobile, shaken
from quiesce.errors import ExportError
from quiesce.export.biases.thresholds import Inputs, Outputs, reaches
from quiesce.export.interface import example_of
from quiesce.export.targets.catalog import target_named
from quiesce.export.targets.hls4ml.design import write_design
from quiesce.export.targets.hls4ml.fixed_point import (
    codes_type,
    half_even,
    search_addition,
    search_layer,
    signed_bits,
)
from quiesce.export.targets.hls4ml.network_in_codes import read_network
from quiesce.export.targets.hls4ml.numbers import Numbers
from quiesce.export.targets.target import Network
from support.messages import telling

BITS: dict[str, Any] = {
    "first_last_bits": None,
    "first_input_bits": 8,
    "residual": "quantized",
}


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def stem() -> list[nn.Module]:
    return [nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()]


def residual() -> nn.Sequential:
    """A depth-wise layer, a residual, a mean, a classifier."""
    end = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(*stem(), Residual(4), *end)


def flat() -> nn.Sequential:
    """A flattening of several positions."""
    return nn.Sequential(*stem(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))


def prepared(network: nn.Module, bits: int = 3, **scheme: Any) -> nn.Module:
    given = {"weight_bits": bits, "act_bits": bits, **BITS, **scheme}
    return calibrated(network, images(), **given)


def seen(network: nn.Module) -> Network:
    return Network(network, example_of(network, images()))


@pytest.mark.parametrize("seed", range(6))
def test_every_reachable_accumulator_gets_its_code(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(-4, 4, (5, 9))
    inputs = Inputs(np.float32(0.37), 0, 7, 7)
    outputs = Outputs(np.float32(0.52), *((0, 7) if seed % 2 else (-4, 3)))
    scale, bias = random.normal(0, 0.2, 5), random.normal(0, 1, 5)
    found = search_layer(scale, bias, codes, inputs, outputs)
    assert found is not None
    for place, (low, high) in enumerate(zip(*reaches(codes, inputs), strict=True)):
        sums = np.arange(low, high + 1)
        exact = (sums * scale[place] * float(inputs.scale) + bias[place]) / float(outputs.scale)
        trained = np.clip(np.round(exact), outputs.low, outputs.high)
        made = half_even(sums * found.scales[0][place] + found.bias[place], found.fraction)
        assert (np.clip(made, outputs.low, outputs.high) == trained).all()
    if found.fraction:  # fewer bits do not suffice
        shorter = found.fraction - 1
        m = np.round(scale * float(inputs.scale) / float(outputs.scale) * 2.0**shorter)
        b = np.round(bias / float(outputs.scale) * 2.0**shorter)
        wrong = 0
        for place, (low, high) in enumerate(zip(*reaches(codes, inputs), strict=True)):
            sums = np.arange(low, high + 1)
            exact = (sums * scale[place] * float(inputs.scale) + bias[place]) / float(outputs.scale)
            made = half_even((sums * m[place] + b[place]).astype(np.int64), shorter)
            ends = outputs.low, outputs.high
            wrong += (np.clip(made, *ends) != np.clip(np.round(exact), *ends)).sum()
        assert wrong


def test_every_pair_of_operands_gets_its_code() -> None:
    left, right = Outputs(np.float32(0.3), 0, 7), Outputs(np.float32(0.71), -4, 3)
    outputs = Outputs(np.float32(0.45), 0, 7)
    found = search_addition((float(left.scale), float(right.scale)), (left, right), outputs)
    assert found is not None
    for a in range(8):
        for b in range(-4, 4):
            exact = (a * float(left.scale) + b * float(right.scale)) / float(outputs.scale)
            total = a * found.scales[0] + b * found.scales[1]
            assert np.clip(half_even(total, found.fraction), 0, 7) == np.clip(np.round(exact), 0, 7)


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0, 7, "ufixed<3,3,RND_CONV,SAT>"),
        (-4, 3, "fixed<3,3,RND_CONV,SAT>"),
        (-3, 3, "fixed<3,3,RND_CONV,SAT_SYM>"),
        (0, 5, None),
        (-2, 3, None),
    ],
)
def test_types_saturate_at_the_ends_of_codes(low: int, high: int, kind: str | None) -> None:
    assert codes_type(low, high) == kind


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(-8, 7, 4), (-9, 7, 5), (0, 8, 5), (-1, 0, 2), (-182, 161, 9)]
)
def test_an_accumulator_has_the_bits_that_it_needs(low: int, high: int, bits: int) -> None:
    assert signed_bits(low, high) == bits


def test_the_bits_of_every_accumulator_are_known_without_hls4ml() -> None:
    network = read_network(seen(prepared(residual())))
    assert network.refusals == []
    design = write_design(network, Numbers(network))
    assert [(each.layer, each.what) for each in design.accumulators] == [
        ("0", "layer"),
        ("3.body.0", "layer"),
        ("3.body.3", "layer"),
        ("3.body.6", "layer"),
        ("3.additions.0", "addition"),
        ("3.additions.0", "mean"),
        ("7", "layer"),
    ]
    for each in design.accumulators:
        assert -(2 ** (each.bits - 1)) <= each.low <= each.high < 2 ** (each.bits - 1)
    layer = network.layers["3.body.3"]
    codes = layer.site.layer.codes.reshape(8, -1).astype(int)
    assert design.accumulators[2].high == (np.maximum(codes, 0).sum(1) * layer.source.high).max()


@pytest.mark.parametrize(
    ("network", "scheme", "parts"),
    [
        (residual(), {"residual": "float"}, ("7", "sum of floats", "residual='quantized'")),
        (residual(), {"learn_offset": True}, ("0", "learned offset", "learn_offset=False")),
        (nn.Sequential(*stem(), nn.Conv2d(4, 4, 3, groups=2)), {}, ("3", "2 groups", "groups=1")),
        (
            nn.Sequential(*stem(), nn.Conv2d(4, 4, 2, dilation=2)),
            {},
            ("3", "dilated", "dilation=1"),
        ),
        (
            nn.Sequential(*stem(), nn.Hardswish(), nn.Conv2d(4, 4, 2)),
            {},
            ("4", "the result of HardSwish", "ReLU6"),
        ),
        (nn.Sequential(*stem(), nn.Conv2d(4, 2, 2), nn.ReLU()), {}, ("3", "an activation")),
        (residual(), {"first_input_bits": None}, ("0", "float", "first_input_bits=8")),
    ],
    ids=["residual", "offset", "groups", "dilation", "operator", "output", "input"],
)
def test_what_it_does_not_take_is_named_with_the_layer(network, scheme, parts) -> None:
    model = prepared(network, **scheme)
    refusals = target_named("hls4ml").check(seen(model))
    assert refusals, "nothing was refused"
    for part in parts:
        assert any(part in str(each) for each in refusals)


def test_a_network_of_many_kinds_is_refused() -> None:
    target = target_named("hls4ml")
    model = calibrated(mobile())
    example = torch.randn(2, 3, 12, 12)
    assert target.check(Network(model, example_of(model, example)))


def test_another_io_type_is_refused() -> None:
    with pytest.raises(ValueError, match=telling("io_type", "io_stream", "serial")):
        target_named("hls4ml").build(seen(prepared(residual())), io_type="serial")


needs_hls4ml = pytest.mark.skipif(
    bool(target_named("hls4ml").missing), reason=target_named("hls4ml").install
)


@needs_hls4ml
@pytest.mark.parametrize(
    ("bits", "network", "io_type"),
    [
        (3, residual(), "io_stream"),
        pytest.param(2, residual(), "io_stream", marks=pytest.mark.slow),
        pytest.param(3, residual(), "io_parallel", marks=pytest.mark.slow),
        pytest.param(3, flat(), "io_stream", marks=pytest.mark.slow),
    ],
    ids=["w3a3", "w2a2", "parallel", "flat"],
)
def test_no_code_differs(bits: int, network: nn.Module, io_type: str, tmp_path: Path) -> None:
    model = prepared(network, bits)
    path = tmp_path / "project"
    made = qs.export(model, path, target="hls4ml", example_input=images(), io_type=io_type)
    found = made.verification
    assert found is not None
    assert [layer.differ for layer in found.layers] == [0] * len(found.layers)
    assert all(layer.codes for layer in found.layers)
    assert "accumulator" in (path / "accumulators.txt").read_text("utf-8")
    for file in path.rglob("*"):
        assert not file.is_file() or b"quiesce-hls4ml-" not in file.read_bytes()
    outputs = target_named("hls4ml").load(path)({"images": images().numpy()})["logits"]
    with torch.no_grad():
        assert np.abs(outputs - model(images()).numpy()).max() < 1e-5


@needs_hls4ml
@pytest.mark.slow
def test_a_relu6_inside_of_the_grid_is_a_limit(tmp_path: Path) -> None:
    model = prepared(nn.Sequential(*stem(), nn.Conv2d(4, 2, 2)))
    quantizer = model.get_submodule("3").input_quantizer
    with torch.no_grad():
        quantizer.scale.fill_(1.1)  # 6 is code 5 of 7
        model.get_submodule("1").weight.mul_(9)
    network = read_network(seen(model))
    assert (network.codes["3"].low, network.codes["3"].high) == (0, 5)
    made = qs.export(model, tmp_path / "project", target="hls4ml", example_input=images())
    assert made.verification is not None
    assert [layer.differ for layer in made.verification.layers] == [0, 0]


def test_without_a_compiler_the_message_says_what_is_missing(monkeypatch) -> None:
    from quiesce.export.targets.hls4ml import project

    monkeypatch.setattr(project.shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match=telling("g++", "without verification")):
        project.check_compiler()


def test_shaken_batchnorms_have_both_signs() -> None:
    norm = shaken(nn.Sequential(nn.BatchNorm2d(4)))[0]
    assert (norm.weight < 0).any()
    assert (norm.weight > 0).any()
