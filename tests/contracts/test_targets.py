"""What every target promises. A target whose packages are missing is skipped, with the reason.

`make test-targets` installs them all and runs this file.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import ExportError, MismatchError, MissingExtraError
from quiesce.export.interface import example_of
from quiesce.export.targets.catalog import TARGETS, target_named
from quiesce.export.targets.exporting import export_to
from quiesce.export.targets.target import Network, Package, Target
from quiesce.export.verification.comparison import compare
from support.digits import trained_digits, unseen_digits
from support.messages import telling

pytestmark = pytest.mark.xdist_group("trained digits")  # each process trains them once

LOW = {"weight_bits": 3, "act_bits": 3, "first_last_bits": 8, "first_input_bits": 8}
EIGHT = {"weight_bits": 4, "act_bits": 8, "first_last_bits": 7, "first_input_bits": 8}
SCHEMES: dict[str, list[dict[str, Any]]] = {
    "onnx": [LOW, EIGHT],
    "openvino": [LOW, EIGHT],
    "executorch": [{**EIGHT, "residual": "quantized"}, LOW],
    "qonnx": [LOW, EIGHT],
    "hls4ml": [
        {**LOW, "residual": "quantized"},
        {**LOW, "weight_bits": 2, "act_bits": 2, "residual": "quantized"},
    ],
}
"""The schemes of the trained networks of each target."""

OFFSET = {**EIGHT, "learn_offset": True}
REFUSED: dict[str, list[tuple[dict[str, Any], str, str]]] = {
    "onnx": [],
    "openvino": [],
    "executorch": [(OFFSET, "stem.0", "learn_offset")],
    "qonnx": [],
    "hls4ml": [(OFFSET, "stem.0", "learn_offset"), (LOW, "blocks.1.expand.0", "residual")],
}
"""Schemes that a target does not take, the layer that it names, and the field to change."""


ALLOWED = {"onnx": 3e-4}
"""Share of codes that may differ: in a layer of some thousand codes, onnx's own allows none."""

LAYERS = 9
"""Quantized inputs of these networks."""


def installed(name: str) -> Target:
    target = target_named(name)
    if target.missing:
        pytest.skip(f"{', '.join(target.missing)} missing: {target.install}")
    return target


every_target = pytest.mark.parametrize("name", TARGETS)


def images(count: int = 16) -> torch.Tensor:
    return unseen_digits(count)[0]


def changed(network: nn.Module, change: str) -> nn.Module:
    """A copy in which one number of one layer differs."""
    other = copy.deepcopy(network)
    layer = other.get_submodule("blocks.1.expand.0")
    with torch.no_grad():
        if change == "code":
            weight = next(w for w in qs.quantized_weights(other) if w.latent is layer.latent)
            weight.latent.view(-1)[0] += weight.scale.view(-1)[0] * (
                1 if weight.codes().view(-1)[0] < 1 else -1
            )
        else:
            other.get_submodule("blocks.1.expand.1").bias[0] += 0.3
    return other


def test_every_member_is_held_to_this() -> None:
    assert set(SCHEMES) == set(REFUSED) == set(TARGETS)


@every_target
@pytest.mark.parametrize(
    "place", [pytest.param(0, id="first"), pytest.param(1, id="second", marks=pytest.mark.slow)]
)
def test_a_trained_network_arrives_code_by_code(name: str, place: int, tmp_path: Path) -> None:
    target = installed(name)
    if place >= len(SCHEMES[name]):
        pytest.skip("this target has one scheme")
    network = trained_digits(**SCHEMES[name][place])
    made = qs.export(
        network,
        tmp_path / "made",
        target=name,
        example_input=images(),
        allow_differences=ALLOWED.get(name),
    )
    found = made.verification
    assert found is not None
    assert found.wrong_weights == []
    added = "residual" in SCHEMES[name][place]  # the two operands of the addition
    assert len(found.layers) == LAYERS + added
    # none, but those of which the order of a float32 sum decides
    sure = {layer.name: layer.differ - layer.undecided for layer in found.layers}
    assert {name: count for name, count in sure.items() if count} == {}
    assert sum(layer.undecided for layer in found.layers) <= 1e-5 * sum(
        layer.codes for layer in found.layers
    )
    assert all(layer.codes for layer in found.layers)
    assert found.agree == found.compared == len(images())
    run = target.load(made.path)
    outputs = run({"images": images(4).numpy()})
    with torch.no_grad():
        expected = network(images(4)).numpy()
    assert (outputs["logits"].argmax(1) == expected.argmax(1)).all()
    assert np.abs(outputs["logits"] - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.slow
@every_target
def test_negative_batch_norms_and_activations_in_place(name: str, tmp_path: Path) -> None:
    installed(name)
    network = copy.deepcopy(trained_digits(**SCHEMES[name][0]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::2] *= -1
        elif isinstance(module, nn.ReLU6):
            module.inplace = True
    # the 6 of ReLU6 is no longer the largest code
    network.get_submodule("blocks.1.depthwise.0.input_quantizer").scale.data *= 1.2
    found = qs.export(
        network,
        tmp_path / "made",
        target=name,
        example_input=images(4),
        compare=lambda ours, theirs: 1.0,
        allow_differences=ALLOWED.get(name),
    ).verification
    assert found is not None
    assert sum(layer.differ - layer.undecided for layer in found.layers) == 0


@pytest.mark.slow
@every_target
def test_another_weight_is_caught(name: str) -> None:
    target = installed(name)
    network = trained_digits(**SCHEMES[name][0])
    example = example_of(network, images())
    file = target.build(Network(changed(network, "code"), example))
    candidate = file.candidate(network, "made", target.allows)
    found = compare(network, candidate, [(example, None)], exported=network)
    assert not found.passed
    assert found.wrong_weights[0].startswith("blocks.1.expand.0: 1 weight codes")
    departing = found.first_departing
    assert departing is not None
    assert departing.made_by == "blocks.1.expand.0"


@every_target
def test_a_file_that_differs_is_not_written(name: str, tmp_path: Path, monkeypatch) -> None:
    target = installed(name)
    network = trained_digits(**SCHEMES[name][0])
    path = tmp_path / "made"
    build = type(target).build
    monkeypatch.setattr(
        type(target),
        "build",
        lambda self, given, **options: build(
            self,
            Network(
                changed(given.model, "bias"),
                given.example,
                rounded_biases=given.rounded_biases,
            ),
            **options,
        ),
    )
    with pytest.raises(MismatchError, match=telling("blocks.1.expand.0", "codes differ", path)):
        qs.export(network, path, target=name, example_input=images())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@every_target
def test_differences_are_accepted_up_to_a_share(name: str) -> None:
    target = installed(name)
    network = trained_digits(**SCHEMES[name][0])
    example = example_of(network, images())
    other = copy.deepcopy(network)
    with torch.no_grad():  # a few codes of one layer differ by one
        other.get_submodule("blocks.1.expand.1").bias += 0.01
    file = target.build(Network(other, example))
    share = {}

    def same(*_: object) -> float:  # classes of so few digits may change
        return 1.0

    for allowed in (0.0, 0.5):
        candidate = file.candidate(network, "made", allowed)
        found = compare(network, candidate, [(example, None)], exported=network, how=same)
        share[allowed] = found.passed
        assert sum(layer.differ for layer in found.layers) > 0
    assert list(share.values()) == [False, True]


@every_target
def test_an_existing_file_stays_unless_it_is_to_be_replaced(name: str, tmp_path: Path) -> None:
    installed(name)
    network = trained_digits(**SCHEMES[name][0])
    path = tmp_path / "made"
    path.write_text("mine")
    with pytest.raises(ExportError, match=telling(path)):
        qs.export(network, path, target=name, example_input=images(2))
    assert path.read_text() == "mine"


@every_target
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    target = target_named(name)
    package = target.packages[-1]
    monkeypatch.setattr(
        Package, "installed", property(lambda self: None if self == package else "1.0")
    )
    with pytest.raises(MissingExtraError, match=telling(package.name, target.install)):
        qs.export(nn.ReLU(), tmp_path / "made", target=name, example_input=images(2))
    assert list(tmp_path.iterdir()) == []


@every_target
def test_another_version_is_said_to_be_untested(name: str, tmp_path: Path, monkeypatch) -> None:
    target = installed(name)
    old = Package(name=target.packages[-1].name, tested="0.0")
    monkeypatch.setattr(type(target), "packages", (*target.packages[:-1], old))
    network = trained_digits(**SCHEMES[name][0])
    with pytest.warns(UserWarning, match=telling(old.name, "untested", "0.0")):
        made = qs.export(
            network, tmp_path / "made", target=name, example_input=images(2), verify=False
        )
    assert old.name in made.notes[0]
    assert made.verification is None


@pytest.mark.slow
@every_target
def test_what_it_does_not_take_is_named_before_anything_is_built(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    target = target_named(name)
    monkeypatch.setattr(Package, "installed", property(lambda self: self.tested))
    for scheme, layer, field in REFUSED[name]:
        network = trained_digits(**scheme)
        with pytest.raises(ExportError, match=telling(name, layer, field)):
            export_to(target, network, tmp_path / "made", images(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "much"])
def test_a_share_is_0_to_1(share, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=telling("allow_differences", "0 to 1")):
        qs.export(nn.ReLU(), tmp_path / "made", example_input=images(2), allow_differences=share)


def test_another_name_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=telling("qonx", "qonnx")):
        qs.export(nn.ReLU(), tmp_path / "made", target="qonx", example_input=images(2))


def test_an_option_of_another_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=telling("qonnx", "opset")):
        qs.export(nn.ReLU(), tmp_path / "made", target="qonnx", example_input=images(2), opset=21)
