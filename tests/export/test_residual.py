"""Additions on grids in the file: integers throughout, and each of them verified."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from quiesce.errors import ExportError
from quiesce.export.arrays import export_arrays
from quiesce.export.interface import example_of
from quiesce.export.onnx import build_model
from quiesce.export.verification.verify import verify_model
from quiesce.models.small_mobilenet import SmallMobileNetV2

from .networks import calibrated

ADDITION = "blocks.3.expand.0"
"""The layer that reads the sum of block 2."""


def digits(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return calibrated(SmallMobileNetV2(), digits(), residual="quantized")


@pytest.fixture(scope="module")
def built(network):
    return build_model(network, example_of(network, digits()), pack="int8", opset=21)


def test_every_addition_and_the_body_run_in_integers(built, tmp_path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(built[0].SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearAdd") == 4
    assert "Add" not in kinds
    # 6 blocks of three; the stem has a float input, the head is read by an average
    assert kinds.count("QLinearConv") == 18


def test_layers_and_additions_are_verified(network, built) -> None:
    found = verify_model(
        network, built[0], [(example_of(network, digits()), None)], where="model.onnx"
    )
    assert found.passed, found.verdict
    made_by = {layer.name: layer.made_by for layer in found.layers}
    assert made_by[ADDITION] == f"the addition read by {ADDITION}"
    assert made_by["blocks.2.additions.0.right"] == "blocks.2.project.0"
    assert sum(layer.optimisations for layer in found.layers) == 0
    # one more than quantized layers with codes for each addition: its left operand is shared
    assert len(found.layers) == 20 + 4


def test_a_tensor_read_twice_is_quantized_once(built) -> None:
    names = [node.output[0] for node in built[0].graph.node]
    assert f"{ADDITION}.input_codes" in names
    assert not any(name.endswith(".left.input_codes") for name in names)


def test_one_scale_at_an_addition_is_caught(network, built) -> None:
    proto = copy.deepcopy(built[0])
    for tensor in proto.graph.initializer:
        if tensor.name == f"{ADDITION}.input_scale":
            array = numpy_helper.to_array(tensor) * np.float32(1.3)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    found = verify_model(
        network, proto, [(example_of(network, digits()), None)], where="model.onnx"
    )
    assert found.verdict.startswith(f"the addition read by {ADDITION}: ")


def test_with_float_additions_it_is_another_network(built) -> None:
    other = calibrated(SmallMobileNetV2(), digits())
    with pytest.raises(ExportError, match=r"it rounds at blocks\.0\.additions\.0\.right"):
        verify_model(other, built[0], [(example_of(other, digits()), None)], where="model.onnx")


@pytest.mark.slow
def test_plain_arrays_hold_the_operands_grids(network, tmp_path) -> None:
    header = export_arrays(network, tmp_path / "model.npz", digits())
    names = [operand["name"] for operand in header["additions"]]
    assert len(names) == 8
    addition = network.blocks[2].additions[0]
    with np.load(tmp_path / "model.npz") as arrays:
        for side in ("left", "right"):
            scale = arrays[f"blocks.2.additions.0.{side}.scale"]
            assert scale == getattr(addition, side).step_size.numpy()
