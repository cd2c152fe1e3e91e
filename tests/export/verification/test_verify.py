"""Verification: that it passes what is right, and that it can fail."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import quiesce as qs
from export.networks import calibrated, images, mobile
from quiesce.errors import DataError, ExportError
from quiesce.export.interface import example_of
from quiesce.export.metadata import KEY
from quiesce.export.onnx import build_model
from quiesce.export.verification import verify as verify_module
from quiesce.export.verification.result import LayerCheck, LogitsCheck, Verification
from quiesce.export.verification.verify import (
    ENOUGH_CODES,
    LAYER_IMAGES,
    LEAST_IMAGES,
    images_needed,
    verify_model,
)
from quiesce.quantization.prepare import quantized_weights
from support.messages import telling, tells

DEPTHWISE = "3.body.3"
PROJECT = "3.body.6"


def verify(network, proto) -> Verification:
    return verify_model(network, proto, [(example_of(network, images()), None)], where="model.onnx")


def corrupted(built, name: str, change: Callable[[np.ndarray], Any]) -> Any:
    """The model with one initializer changed in place."""
    proto = copy.deepcopy(built[0])
    (tensor,) = (each for each in proto.graph.initializer if each.name == name)
    array = np.array(numpy_helper.to_array(tensor))
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return proto


def test_what_was_exported_passes(network, built) -> None:
    found = verify(network, built[0])
    assert found.passed
    assert found.wrong_weights == []
    assert sum(layer.differ for layer in found.layers) == 0
    assert sum(layer.optimisations for layer in found.layers) == 0
    assert found.agree == found.images == 16
    assert "weights exact" in found.verdict


def test_every_quantized_input_is_compared_and_knows_what_makes_it(network, built) -> None:
    found = verify(network, built[0])
    made_by = {layer.name: layer.made_by for layer in found.layers}
    assert made_by == {
        "3.body.0": "0",
        DEPTHWISE: "3.body.0",
        PROJECT: DEPTHWISE,
        "4": PROJECT,
        "8": "4",
    }
    assert all(layer.codes > 0 for layer in found.layers)


def test_the_integer_layers_of_this_network_are_the_ones_between_quantizers(built) -> None:
    whole = {layer.name for layer in built[1].layers if layer.integer}
    assert whole == {"3.body.0", DEPTHWISE}


def one_weight(array: np.ndarray) -> None:
    array.flat[0] += 1 if array.flat[0] < 100 else -1


@pytest.mark.parametrize("layer", ["0", DEPTHWISE, PROJECT, "8"])
def test_one_weight_is_caught(network, built, layer) -> None:
    (holds,) = (each.weight for each in built[1].layers if each.name == layer)
    found = verify(network, corrupted(built, holds, one_weight))
    assert not found.passed
    assert found.verdict.startswith(f"{layer}: 1 weight codes")


def stretched(array: np.ndarray) -> None:
    array *= np.float32(1.05)


@pytest.mark.parametrize(
    ("name", "departs"),
    [
        (f"{DEPTHWISE}.input_scale", "3.body.0"),
        (f"{DEPTHWISE}.weight_scale", DEPTHWISE),
        ("4.input_scale", PROJECT),
        ("4.weight_scale", "4"),
    ],
)
def test_one_scale_is_caught(network, built, name, departs) -> None:
    found = verify(network, corrupted(built, name, stretched))
    assert found.verdict.startswith(f"{departs}: ")
    assert "output codes differ" in found.verdict
    assert "integer reference" in found.verdict


@pytest.mark.parametrize("layer", ["3.body.0", DEPTHWISE, "8"])
def test_one_zero_point_is_caught(network, built, layer) -> None:
    def shift(array: np.ndarray) -> None:
        array += 1

    found = verify(network, corrupted(built, f"{layer}.input_zero", shift))
    assert not found.passed
    assert "output codes differ" in found.verdict


def test_one_clip_limit_is_caught(network, built) -> None:
    def raise_(array: np.ndarray) -> None:
        array += 1

    found = verify(network, corrupted(built, f"{DEPTHWISE}.input_high", raise_))
    assert found.verdict.startswith("3.body.0: ")
    assert f"seen at the input of {DEPTHWISE}" in found.verdict


@pytest.mark.parametrize("layer", ["0", DEPTHWISE, PROJECT])
def test_one_folded_bias_is_caught(network, built, layer) -> None:
    names = {each.name for each in built[0].graph.initializer}
    kinds = ("folded_bias", "own_bias", "minus_bias")
    (name,) = (f"{layer}.{kind}" for kind in kinds if f"{layer}.{kind}" in names)

    def shift(array: np.ndarray) -> None:
        array.flat[0] += max(1, abs(array.flat[0]) // 2)

    found = verify(network, corrupted(built, name, shift))
    assert found.verdict.startswith(f"{layer}: ")


def test_rounding_explains_what_the_logits_differ_by(network, built) -> None:
    logits = verify(network, built[0]).logits
    assert logits.made_by == "8"
    assert 0 < logits.allowed < 1  # one unit of the accumulator is far more
    assert logits.differ < logits.allowed / 4


LAST_LAYER = {
    "one_scale": ("weight_scale", lambda array: array * np.float32(1.001)),
    "no_scale": ("weight_scale", lambda array: array * np.float32(np.nan)),
    "all_biases": ("minus_bias", lambda array: array + np.float32(1000)),
    "one_bias": ("minus_bias", lambda array: array + np.eye(1, len(array))[0] * 1e-3),
    "half_a_bias": ("minus_bias", lambda array: array / 2),
    "no_bias": ("minus_bias", lambda array: array + np.float32(np.nan)),
    "an_endless_bias": ("minus_bias", lambda array: array + np.float32(np.inf)),
}
"""What no code behind it shows, and hardly any class."""


@pytest.fixture(scope="module")
def single():
    """A network of one logit, whose class is always the first, and its file."""
    torch.manual_seed(0)
    layers = mobile()
    layers[8] = torch.nn.Linear(8, 1)
    made = calibrated(layers)
    return made, build_model(made, example_of(made, images()), pack="int8", opset=21)


@pytest.mark.parametrize("change", LAST_LAYER)
@pytest.mark.parametrize("classes", [5, 1])
def test_a_last_layer_that_differs_is_caught(network, built, single, change, classes) -> None:
    model, file = (network, built) if classes > 1 else single
    name, changed = LAST_LAYER[change]

    def apply(array: np.ndarray) -> None:
        array[...] = changed(array)

    found = verify(model, corrupted(file, f"8.{name}", apply))
    assert not found.passed
    assert found.verdict.startswith("8: logits differ by ")
    assert found.logits_differ > 1


@pytest.mark.slow
def test_infinite_logits_of_both_are_equal() -> None:
    with torch.no_grad():
        masked = mobile()
        masked[8].bias[2] = -torch.inf
        network = calibrated(masked)
    found = verify(
        network, build_model(network, example_of(network, images()), pack="int8", opset=21)[0]
    )
    assert found.passed, found.verdict
    assert np.isfinite(found.logits_differ)


def test_a_logit_that_is_no_number_beyond_the_layers_images_fails() -> None:
    found = Verification(wrong_weights=[], layers=[], images=1, agree=1, logits_differ=np.inf)
    assert "not a number" in found.verdict


def test_the_batch_that_goes_farthest_beyond_what_is_allowed_counts() -> None:
    logits = LogitsCheck()
    for differ, allowed in ((1.0, 2.0), (3.0, 2.5), (4.0, 8.0)):
        logits.note(differ, allowed)
    assert (logits.differ, logits.allowed, logits.passed) == (3.0, 2.5, False)


def test_labels_count_on_both_sides(network, built) -> None:
    with torch.no_grad():
        labels = network(images()).argmax(1)
    found = verify_model(
        network, built[0], [(example_of(network, images()), labels)], where="model.onnx"
    )
    assert (found.labelled, found.right_trained, found.right_runtime) == (16, 16, 16)
    assert found.points == 0


def test_accuracies_too_far_apart_fail() -> None:
    found = Verification(
        wrong_weights=[], layers=[], images=100, agree=100, labelled=100, right_trained=51
    )
    assert "51.00 points apart" in found.verdict


@pytest.mark.parametrize(
    ("differ", "largest", "passed"), [(1, 1, True), (2, 1, False), (1, 2, False), (0, 0, True)]
)
def test_a_layer_may_differ_in_one_code_of_ten_thousand_by_one(differ, largest, passed) -> None:
    layer = LayerCheck(name="b", made_by="a", codes=10_000, differ=differ, largest=largest)
    assert layer.passed is passed


@pytest.mark.parametrize(("changed", "passed"), [(1, True), (2, False)])
def test_optimisations_may_change_as_few_codes(changed, passed) -> None:
    layer = LayerCheck(
        name="b", made_by="a", codes=10_000, differ=1, largest=1, optimisations=changed
    )
    assert layer.passed is passed
    assert ("optimisations change 2" in str(layer)) != passed


def test_codes_that_optimisations_change_are_counted(network, built, monkeypatch) -> None:
    right = verify_module.session

    def other_when_optimised(proto, *, optimized, where):
        # as an optimisation would that rounds the bias
        if optimized:
            proto = corrupted(
                (proto,), f"{PROJECT}.minus_bias", lambda array: np.round(array, 0, array)
            )
        return right(proto, optimized=optimized, where=where)

    monkeypatch.setattr(verify_module, "session", other_when_optimised)
    found = verify(network, built[0])
    assert found.first_departing is not None
    assert found.first_departing.optimisations == found.first_departing.differ > 0
    assert found.verdict.startswith(f"{PROJECT}: ")


def test_another_network_is_an_error_and_no_mismatch(built) -> None:
    other = calibrated(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3)))
    with pytest.raises(ExportError, match=telling("model.onnx", "another network")):
        verify(other, built[0])


def test_other_weights_of_the_same_network_are_a_mismatch(built) -> None:
    torch.manual_seed(7)
    found = verify(calibrated(mobile()), built[0])
    assert "weight codes" in found.verdict


def redescribed(built, **changes: Any) -> Any:
    """The model with another description."""
    proto = copy.deepcopy(built[0])
    (entry,) = (each for each in proto.metadata_props if each.key == KEY)
    entry.value = replace(built[1], **changes).to_json()
    return proto


@pytest.mark.parametrize("kept", [0, 2])
def test_codes_that_a_file_does_not_list_are_missed(network, built, kept) -> None:
    proto = redescribed(built, inputs=built[1].inputs[:kept])
    with pytest.raises(ExportError, match=r"model\.onnx does not list the codes of .*export it"):
        verify(network, proto)


def test_an_initializer_with_the_codes_that_nothing_reads_is_caught(network, built) -> None:
    first, *others = built[1].layers
    proto = redescribed(built, layers=(replace(first, weight="decoy"), *others))
    (real,) = (each for each in proto.graph.initializer if each.name == first.weight)
    decoy = proto.graph.initializer.add()
    decoy.CopyFrom(real)
    decoy.name = "decoy"
    assert tells(verify(network, proto).verdict, "0: ", "decoy")


def test_no_images(network, built) -> None:
    with pytest.raises(DataError, match="no input to verify on"):
        verify_model(network, built[0], [], where="model.onnx")


def test_a_file_with_frozen_codes_holds_them(tmp_path) -> None:
    network = calibrated(mobile())
    (weight,) = (w for w in quantized_weights(network) if w.name == PROJECT)
    codes = (weight.codes() + 1).clamp(max=weight.grid.quant_max)
    weight.freeze(torch.ones_like(codes, dtype=torch.bool), codes)
    with torch.no_grad():
        weight.latent.add_(5)  # an optimizer's momentum; the codes stay
    qs.export_onnx(network, tmp_path / "model.onnx", images())
    stored = {each.name: each for each in onnx.load(tmp_path / "model.onnx").graph.initializer}
    array = numpy_helper.to_array(stored[f"{PROJECT}.weight_codes"])
    assert np.array_equal(array, codes.numpy())


def test_as_many_images_as_judge_the_layer_with_the_fewest_codes(network, built) -> None:
    found = verify(network, built[0])
    fewest = min(layer.codes for layer in found.layers) // found.images
    needed = images_needed(network, images()[:1])
    assert needed == min(LAYER_IMAGES, max(LEAST_IMAGES, -(-ENOUGH_CODES // fewest)))
    assert LEAST_IMAGES < needed  # of this network: its head has few features


def test_a_layer_with_many_codes_needs_few_images() -> None:
    wide = torch.nn.Conv2d(4, 4, 1)
    scheme = qs.Scheme(weight_bits=4, act_bits=4, first_last_bits=None, first_input_bits=4)
    batch = torch.rand(2, 4, 32, 32)
    qs.calibrate(qs.prepare(wide, scheme, batch), [batch])
    assert images_needed(wide, batch[:1]) == LEAST_IMAGES


@pytest.mark.parametrize(("codes", "hint"), [(8_192, True), (32_768, False)])
def test_too_few_codes_to_judge_by_are_told(codes: int, hint: bool) -> None:
    layer = LayerCheck(name="b", made_by="a", codes=codes, differ=4, largest=1, simulation=4)
    assert not layer.passed
    assert ("compare on more images" in str(layer)) == hint


@pytest.mark.parametrize(("codes", "allowed", "count"), [(50_000, 1e-4, "5"), (50_000, 0, "none")])
def test_a_failure_of_a_layer_states_the_bar_and_the_status(codes, allowed, count) -> None:
    bad = LayerCheck(name="b", made_by="a", codes=codes, differ=9, largest=1, allowed=allowed)
    good = LayerCheck(name="c", made_by="b", codes=codes, allowed=allowed)
    found = Verification(wrong_weights=[], layers=[bad, good])
    assert not found.passed
    assert count in bad.bar.split()
    assert bad.bar in found.verdict
    assert found.layer_status in found.verdict
