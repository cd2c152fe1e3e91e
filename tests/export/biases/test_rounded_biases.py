"""Rounded biases: 8-bit networks in integers, equal to a copy that they are half a unit from."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import quiesce as qs
from export.networks import calibrated, images, shaken
from quiesce.errors import ExportError
from quiesce.export.biases.integer_biases import largest_multiples
from quiesce.export.biases.rounded_biases import with_rounded_biases
from quiesce.export.graph.folded_graph import fold
from quiesce.export.graph.quantized_inputs import between_quantizers
from quiesce.export.interface import example_of
from quiesce.export.onnx import build_model
from quiesce.export.packing import DEFAULT_OPSET
from quiesce.export.verification.verify import verify_model
from quiesce.models.small_mobilenet import BLOCKS, HEAD, SmallMobileNetV2

BODY = 6
"""Convolutions of `short` between quantizers, once its additions have theirs."""


IN_INTEGERS = {"weight_bits": 4, "act_bits": 8, "residual": "quantized"}


def short() -> SmallMobileNetV2:
    """The first two of its six blocks."""
    network = SmallMobileNetV2()
    network.blocks = network.blocks[:2]
    network.head[0] = nn.Conv2d(BLOCKS[1][0], HEAD, 1, bias=False)
    return network


def digits(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return calibrated(short(), digits(), **IN_INTEGERS)


@pytest.fixture(scope="module")
def plain(network):
    """Without rounded biases."""
    return build_model(network, example_of(network, digits(2)), pack="int8", opset=DEFAULT_OPSET)[0]


@pytest.fixture(scope="module")
def rounded(network):
    return with_rounded_biases(network, example_of(network, digits()))


@pytest.fixture(scope="module")
def built(rounded):
    example = example_of(rounded, digits())
    return build_model(rounded, example, pack="int8", opset=DEFAULT_OPSET, rounded_biases=True)


def test_an_8_bit_body_runs_in_integers_only_with_it(plain, built, tmp_path) -> None:
    found = {}
    for kind, proto in (("plain", plain), ("rounded", built[0])):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{kind}.onnx")
        onnxruntime.InferenceSession(proto.SerializeToString(), options)
        kinds = [node.op_type for node in onnx.load(tmp_path / f"{kind}.onnx").graph.node]
        found[kind] = kinds.count("QLinearConv")
    assert found["plain"] < BODY
    assert found["rounded"] == sum(layer.integer for layer in built[1].layers) == BODY


def test_it_is_verified_against_the_network_as_it_was_trained(network, built) -> None:
    before = copy.deepcopy(network.state_dict())
    found = verify_model(
        network, built[0], [(example_of(network, digits()), None)], where="model.onnx"
    )
    assert found.passed, found.verdict
    assert sum(layer.optimisations for layer in found.layers) == 0
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())


@pytest.mark.slow
def test_a_bias_moves_to_a_whole_unit_nearby(network, rounded) -> None:
    old, new = (
        fold(each, example_of(each, digits(2)), DEFAULT_OPSET) for each in (network, rounded)
    )
    moved, count = [], 0
    for before, after in zip(old.sites, new.sites, strict=True):
        between = between_quantizers(before, old.inputs)
        if between is None:
            assert np.array_equal(before.bias, after.bias)
            continue
        scale, codes = before.per_channel, before.channel_codes
        unit = scale * float(between[0].scale)
        unit /= largest_multiples(scale, before.bias, codes, between[0])
        whole = after.bias / unit
        # the parameter is a float32: it is off by a rounding of itself
        tolerance = 2**-23 * (np.abs(after.bias) + np.abs(before.bias)).max() / np.abs(unit)
        assert (np.abs(whole - np.round(whole)) <= tolerance).all()
        far = np.abs(after.bias - before.bias) / np.abs(unit)
        assert (far <= 2.5 + tolerance).all()
        moved.append(np.abs(after.bias - before.bias).max())
        count += 1
    assert count == BODY
    assert min(moved) > 0


@pytest.mark.slow
def test_a_moved_bias_is_caught(network, built) -> None:
    name = "blocks.1.expand.0.folded_bias"
    proto = copy.deepcopy(built[0])
    (tensor,) = (each for each in proto.graph.initializer if each.name == name)
    array = np.array(numpy_helper.to_array(tensor))
    array += 50
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    found = verify_model(
        network, proto, [(example_of(network, digits()), None)], where="model.onnx"
    )
    assert found.verdict.startswith("blocks.1.expand.0: ")


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "integer"), [(7, BODY), (8, 0)])
def test_7_bit_weights_have_room_and_8_bit_ones_have_not(bits, integer) -> None:
    torch.manual_seed(0)
    model = calibrated(short(), digits(), **{**IN_INTEGERS, "weight_bits": bits})
    example = example_of(model, digits(2))
    rounded = with_rounded_biases(model, example)
    _, told = build_model(rounded, example, pack="int8", opset=DEFAULT_OPSET, rounded_biases=True)
    assert sum(layer.integer for layer in told.layers) == integer


@pytest.mark.slow
@pytest.mark.parametrize("bits", [7, 8])
def test_whole_exports_are_verified(bits, tmp_path) -> None:
    torch.manual_seed(0)
    model = calibrated(short(), digits(), **{**IN_INTEGERS, "weight_bits": bits})
    made = qs.export_onnx(model, tmp_path / "model.onnx", digits(), round_biases=True)
    assert made.verification is not None
    assert made.verification.passed


class SharedNorm(nn.Module):
    """Two convolutions before one batch norm: its shift cannot suit both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.third = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        return self.last(torch.relu(self.norm(self.third(x)))).mean((2, 3))


class ReadElsewhere(nn.Module):
    """A batch norm behind a convolution, and behind a pooling, which nothing folds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        beside = self.norm(self.pool(x)).mean((1, 2, 3))
        x = torch.relu(self.norm(self.second(x)))
        return self.last(x).mean((2, 3)) + beside[:, None]


@pytest.mark.parametrize("kind", [SharedNorm, ReadElsewhere])
def test_a_shift_that_is_read_twice_stays(kind) -> None:
    network = calibrated(kind(), weight_bits=4, act_bits=8, first_input_bits=8)
    rounded = with_rounded_biases(network, example_of(network, images(2)))
    assert torch.equal(rounded.norm.bias, network.norm.bias)
    assert torch.equal(rounded.second.bias, network.second.bias)


@pytest.mark.slow
def test_biases_that_integers_add_as_they_are_stay() -> None:
    torch.manual_seed(0)
    network = calibrated(short(), digits(2), weight_bits=4, act_bits=4)
    rounded = dict(with_rounded_biases(network, example_of(network, digits(2))).named_parameters())
    assert all(torch.equal(each, rounded[name]) for name, each in network.named_parameters())


class WithoutLength(nn.Sequential):
    def __len__(self) -> int:
        return 0


def test_a_network_of_no_length_is_compared_with_itself() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    network = calibrated(WithoutLength(*layers), weight_bits=4, act_bits=8)
    proto, _ = build_model(network, example_of(network, images()), pack="int8", opset=DEFAULT_OPSET)
    found = verify_model(
        network, proto, [(example_of(network, images(256)), None)], where="model.onnx"
    )
    assert sum(layer.differ for layer in found.layers) == 0
    assert sum(layer.whole for layer in found.layers) == 0


@pytest.mark.slow
def test_a_flag_set_or_unset_by_hand_is_caught(network, plain, built) -> None:
    for proto, old, new in ((plain, "false", "true"), (built[0], "true", "false")):
        changed = copy.deepcopy(proto)
        (told,) = (each for each in changed.metadata_props if each.key == "quiesce")
        flag = '"rounded_biases":{}'.format
        assert flag(old) in told.value
        told.value = told.value.replace(flag(old), flag(new))
        assert not verify_model(
            network, changed, [(example_of(network, digits()), None)], where="model.onnx"
        ).passed


def test_packed_weights_have_no_integer_convolution_to_round_for(network, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="give --round-biases or --pack, not both"):
        qs.export_onnx(network, path, digits(2), pack="int4", round_biases=True)
    assert not path.exists()


@pytest.mark.slow
def test_without_a_batch_norm_the_convolutions_own_bias_moves(tmp_path) -> None:
    torch.manual_seed(0)
    model = shaken(
        nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)
        )
    )
    network = calibrated(model, weight_bits=4, act_bits=8)
    rounded = with_rounded_biases(network, example_of(network, images(2)))
    old, new = dict(network.named_parameters()), dict(rounded.named_parameters())
    assert [name for name in old if not torch.equal(old[name], new[name])] == ["2.bias"]
    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), round_biases=True)
    assert [layer.name for layer in made.description.layers if layer.integer] == ["2"]
