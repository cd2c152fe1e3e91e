"""`quiesce.audit` of files: which numbers are not the trained ones."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import quiesce as qs
from quiesce.errors import ExportError
from quiesce.export.interface import example_of
from quiesce.export.targets.qonnx.quant_nodes import write_quant_nodes
from quiesce.export.targets.target import Network
from support.messages import telling

from .networks import calibrated, images, mobile


@pytest.fixture
def exported(built, tmp_path):
    """A file of the network, as a proto to change, and a function that audits it."""
    proto = copy.deepcopy(built[0])

    def audit(network: nn.Module):
        onnx.save(proto, tmp_path / "model.onnx")
        return qs.audit(network, tmp_path / "model.onnx", example_input=images())

    return proto, audit


def change(proto, name: str, edit) -> None:
    """Change the numbers of an initializer."""
    (tensor,) = (each for each in proto.graph.initializer if each.name == name)
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(edit(array), name))


def row(found, name: str):
    (layer,) = (each for each in found.layers if each.name == name)
    return layer


def test_a_file_of_the_network_has_its_codes(network, exported) -> None:
    found = exported[1](network)
    names = [layer.name for layer in found.layers]
    assert names == ["0", "3.body.0", "3.body.3", "3.body.6", "4", "8"]
    assert found.changed == 0
    assert "0 of " in str(found)
    for layer in found.layers:
        assert layer.error < 1e-5
        assert layer.classes_changed == 0
        # the two others have an integer bias, and a scale that goes with it: no code changes
        if layer.name not in ("3.body.0", "3.body.3"):
            assert layer.equal
            assert layer.largest_bias < 1e-3


def test_a_changed_code_is_counted(network, exported) -> None:
    proto, audit = exported

    def edit(array):
        array.reshape(-1)[0] += 1 if array.reshape(-1)[0] < 3 else -1
        return array

    change(proto, "3.body.6.weight_codes", edit)
    found = audit(network)
    assert found.changed == row(found, "3.body.6").codes_changed == 1
    assert row(found, "3.body.6").error > 0
    assert not found.equal
    assert "3.body.6" in str(found)


def test_a_wrong_bias_of_five_units_is_seen(network, exported) -> None:
    proto, audit = exported
    layer = network.get_submodule("8")
    unit = float(layer.input_quantizer.step_size * layer.weight_quantizer.step_size.max())
    change(proto, "8.minus_bias", lambda array: array + np.float32(5 * unit))
    found = row(audit(network), "8")
    assert found.codes_changed == 0
    assert found.biases_changed == 5
    assert found.largest_bias == pytest.approx(5, rel=1e-3)
    assert found.error > 0


def test_a_changed_scale_is_seen(network, exported) -> None:
    proto, audit = exported
    change(proto, "3.body.6.weight_scale", lambda array: array * np.float32(1.01))
    found = row(audit(network), "3.body.6")
    assert found.codes_changed == 0
    assert found.scales_changed == found.scales == 8
    assert found.largest_scale == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
def test_quant_nodes_and_batch_norms_are_read(network, tmp_path) -> None:
    written = write_quant_nodes(Network(network, example_of(network, images())))
    onnx.save(written.proto, tmp_path / "model.onnx")
    found = qs.audit(network, tmp_path / "model.onnx", example_input=images())
    assert len(found.layers) == 6
    assert found.equal, str(found)


@pytest.mark.filterwarnings("ignore")
def test_the_file_of_another_tool_is_compared(network, tmp_path, caplog) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"images": images().numpy()}]

        def get_next(self):
            return self.left.pop() if self.left else None

    plain = qs.strip(network).eval()
    torch.onnx.export(
        plain, (images(),), tmp_path / "float.onnx", input_names=["images"], dynamo=True
    )
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "theirs.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
    )
    found = qs.audit(network, tmp_path / "theirs.onnx", example_input=images())
    assert len(found.layers) == 6
    assert sum(layer.biases_changed for layer in found.layers) > 0
    assert sum(layer.scales_changed for layer in found.layers) > 0


def test_a_file_of_another_network_is_refused(exported) -> None:
    torch.manual_seed(0)
    other = mobile()
    other[0] = nn.Conv2d(3, 8, 5, padding=2, bias=False)
    with pytest.raises(ExportError, match=telling("0", "(8, 3, 5, 5)")):
        exported[1](calibrated(other))


@pytest.mark.parametrize("name", ["missing.onnx", "model.bin", "broken.onnx", "broken.tflite"])
def test_what_is_no_file_to_audit_is_refused(network, tmp_path, name) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"nothing")
    if name.endswith("tflite"):
        pytest.importorskip("ai_edge_litert")
    with pytest.raises(ExportError, match=telling(name)):
        qs.audit(network, tmp_path / name, example_input=images())


def test_an_audit_needs_a_path_and_inputs(network) -> None:
    with pytest.raises(TypeError, match="example_input"):
        qs.audit(network, "model.onnx")
    with pytest.raises(TypeError, match="int"):
        qs.audit(3, "model.onnx", example_input=images())  # pyright: ignore[reportArgumentType]
