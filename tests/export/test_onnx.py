"""What is in an exported file, and what is refused."""

import errno
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import quiesce as qs
from quiesce.errors import (
    DiskFullError,
    ExportError,
    MismatchError,
    MissingExtraError,
    NotCalibratedError,
    NothingToDoError,
)
from quiesce.export import onnx as export_module
from quiesce.export import packing
from quiesce.export.metadata import Preprocessing, description_of, load_model
from quiesce.export.runtime import session
from support.messages import telling

from .networks import calibrated, images, mobile


def initializers(proto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}


def operators(proto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_batch_norms_and_activations_before_quantizers_are_gone(built) -> None:
    kinds = operators(built[0])
    assert "BatchNormalization" not in kinds
    assert kinds.count("Relu") == 1  # the stem's, which an addition reads too
    floats = [n for n in built[0].graph.node if n.op_type == "Clip" and "input_" not in n.name]
    assert floats == []
    assert kinds.count("HardSwish") == 1


def test_codes_are_clipped_as_integers_between_quantizing_and_dequantizing(built) -> None:
    arrays = initializers(built[0])
    clips = [node for node in built[0].graph.node if node.op_type == "Clip"]
    assert clips
    for clip in clips:
        low, high = (arrays[name] for name in clip.input[1:])
        assert low.dtype == high.dtype == np.uint8
        assert 0 <= int(high) - int(low) <= 7


def test_relu6_becomes_the_code_of_six(network, built) -> None:
    grid = network[3].body[3].input_quantizer
    six = torch.round(6 / grid.step_size).clamp(*grid.limits)
    arrays = initializers(built[0])
    assert arrays["3.body.3.input_low"] == 0
    assert arrays["3.body.3.input_high"] == int(six)


def test_codes_of_layers_with_a_float_bias_are_stored_as_trained(network, built) -> None:
    weights = {weight.name: weight.codes().numpy() for weight in qs.quantized_weights(network)}
    arrays = initializers(built[0])
    for layer in built[1].layers:
        stored = arrays[layer.weight]
        stored = stored.T if layer.turned else stored
        if not layer.integer:
            assert np.array_equal(stored, weights[layer.layer])


def test_integer_layers_run_as_integer_convolutions(built, tmp_path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(built[0].SerializeToString(), options)
    kinds = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert kinds.count("QLinearConv") == sum(layer.integer for layer in built[1].layers) == 2


def test_8_bit_convolutions_without_bias_are_no_integer_ones(tmp_path) -> None:
    # two products of 8-bit numbers do not fit into the 16 bits of processors without VNNI
    convs = [nn.Conv2d(channels, 6, 3, bias=False) for channels in (3, 6, 6)]
    layers = [each for conv in convs for each in (conv, nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(216, 5))
    network = calibrated(model, weight_bits=8, act_bits=8)
    made = qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert not any(layer.integer for layer in made.description.layers)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(made.path), options)
    assert "QLinearConv" not in operators(onnx.load(tmp_path / "optimized.onnx"))


def test_any_number_of_images_is_taken(network, built) -> None:
    run = session(built[0], optimized=True)
    for count in (1, 5):
        (logits,) = run.run(["logits"], {"images": images(count).numpy()})
        with torch.no_grad():
            expected = network(images(count)).numpy()
        assert logits.shape == (count, 5)
        assert np.allclose(logits, expected, atol=1e-3)


def test_raw_pixels_are_normalised_in_the_graph(tmp_path) -> None:
    how = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), size=(12, 12), folded=True)
    pixels = torch.randint(0, 256, (16, 3, 12, 12), dtype=torch.uint8)
    column = [torch.tensor(numbers).view(-1, 1, 1) for numbers in (how.mean, how.std)]
    batch = (pixels / 255 - column[0]) / column[1]
    network = calibrated(mobile(), batch)
    made = qs.export_onnx(network, tmp_path / "model.onnx", batch, preprocessing=how)
    assert made.verification is not None
    run = session((tmp_path / "model.onnx").read_bytes(), optimized=True)
    assert run.get_inputs()[0].type == "tensor(uint8)"
    (logits,) = run.run(["logits"], {"images": pixels.numpy()})
    with torch.no_grad():
        assert (logits.argmax(1) == network(batch).argmax(1).numpy()).all()


def test_the_file_says_what_it_is_and_nothing_of_this_machine(network, tmp_path) -> None:
    made = qs.export_onnx(
        network,
        tmp_path / "model.onnx",
        images(),
        labels=list("abcde"),
        summary={"top1_percent": {"trained": 50.0}},
    )
    proto = load_model(made.path)
    description = description_of(proto, made.path)
    assert description == made.description
    assert description.labels == tuple("abcde")
    assert description.summary == {"top1_percent": {"trained": 50.0}}
    content = made.path.read_bytes()
    for path in (tmp_path, Path.cwd(), Path(qs.__file__).parent, Path.home()):
        assert len(path.parts) < 2 or str(path).encode() not in content
    assert b".py" not in content
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_an_existing_file_is_refused_and_stays(network, tmp_path) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(ExportError, match=telling("model.onnx", "exists")):
        qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert (tmp_path / "model.onnx").read_text() == "mine"
    qs.export_onnx(network, tmp_path / "model.onnx", images(), overwrite=True, verify=False)
    assert (tmp_path / "model.onnx").read_bytes() != b"mine"


def test_a_file_that_would_be_wrong_is_not_written(network, tmp_path, monkeypatch) -> None:
    right = export_module.build_model

    def wrong(*args, **kwargs):
        proto, description = right(*args, **kwargs)
        for tensor in proto.graph.initializer:
            if tensor.name == "4.weight_codes":
                array = np.array(numpy_helper.to_array(tensor))
                array.flat[0] ^= 1
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return proto, description

    monkeypatch.setattr(export_module, "build_model", wrong)
    with pytest.raises(MismatchError, match=telling("4: 1 weight codes")):
        qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert list(tmp_path.iterdir()) == []
    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), verify=False)
    assert made.verification is None


def test_a_disk_that_fills_up_leaves_no_half_file(network, tmp_path, monkeypatch) -> None:
    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match="No space left"):
        qs.export_onnx(network, tmp_path / "model.onnx", images(), verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_model_never_calibrated(tmp_path) -> None:
    network = qs.prepare(mobile(), qs.Scheme(), images())
    with pytest.raises(NotCalibratedError, match=r"3\.body\.0\.input has no scale yet"):
        qs.export_onnx(network, tmp_path / "model.onnx", images())


def test_a_model_never_prepared(tmp_path) -> None:
    with pytest.raises(NothingToDoError, match=r"call quiesce\.prepare first"):
        qs.export_onnx(mobile(), tmp_path / "model.onnx", images())


def test_a_layer_on_no_path(tmp_path) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Conv2d(3, 4, 3)
            self.idle = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.idle(x)
            return self.used(x)

    with pytest.raises(NothingToDoError, match=r"idle is on no path .* \(1 of 2"):
        qs.export_onnx(calibrated(Idle()), tmp_path / "model.onnx", images())


@pytest.mark.parametrize(("pack", "opset", "needed"), [("int4", 20, 21), ("int2", 24, 25)])
def test_an_opset_too_old_for_the_container(network, tmp_path, pack, opset, needed) -> None:
    with pytest.raises(ExportError, match=telling(pack, needed)):
        qs.export_onnx(network, tmp_path / "model.onnx", images(), pack=pack, opset=opset)


def test_an_opset_that_does_not_exist_yet(network, tmp_path) -> None:
    with pytest.raises(ExportError, match=telling("opset 999")):
        qs.export_onnx(network, tmp_path / "model.onnx", images(), opset=999)


@pytest.mark.parametrize("pack", ["int4", "int2"])
def test_a_container_that_the_installed_runtime_does_not_know(
    network, tmp_path, monkeypatch, pack
) -> None:
    class Refusing:
        def __init__(self, *_, **__) -> None:
            raise RuntimeError("Type Error: unknown tensor type")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Refusing)
    with pytest.raises(ExportError, match=telling(pack, "opset")):
        qs.export_onnx(network, tmp_path / "model.onnx", images(), pack=pack, verify=False)


def test_without_a_runtime_only_onnx_has_to_know_the_container(monkeypatch) -> None:
    monkeypatch.setattr(packing, "find_spec", lambda _: None)
    monkeypatch.setattr(packing, "session", None)
    assert packing.check_pack("int2", None) == 25


def test_an_unknown_container(network, tmp_path) -> None:
    with pytest.raises(ValueError, match=telling("`pack`", "int8, int4, int2", "'int3'")):
        qs.export_onnx(network, tmp_path / "model.onnx", images(), pack="int3")


def test_a_network_that_torch_can_not_export(tmp_path) -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    with pytest.raises(ExportError, match=r"^Moody cannot be exported: ") as raised:
        qs.export_onnx(calibrated(Moody()), tmp_path / "model.onnx", images())
    assert "\n" not in str(raised.value)


def test_an_example_without_a_tensor(network, tmp_path) -> None:
    with pytest.raises(TypeError, match=telling("`example_input`", "list")):
        qs.export_onnx(network, tmp_path / "model.onnx", ["text"], verify=False)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_parameters_of_another_type(kind, tmp_path) -> None:
    dtype = getattr(torch, kind)
    network = calibrated(mobile()).to(dtype)
    with pytest.raises(ExportError, match=rf"weight is {kind}, .* export model\.float\(\)"):
        qs.export_onnx(network, tmp_path / "model.onnx", images().to(dtype))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_weight_shared_by_a_convolution_and_its_transpose(per_channel, tmp_path) -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 6, 3),
        nn.Flatten(),
        nn.Linear(600, 4),
    )
    layers[4].weight = layers[2].weight
    network = calibrated(layers, per_channel=per_channel)
    if (
        per_channel
    ):  # one scale for each output channel of one is for each input channel of the other
        with pytest.raises(ExportError, match=telling("4 ", "weight of 2")):
            qs.export_onnx(network, tmp_path / "model.onnx", images())
    else:
        made = qs.export_onnx(network, tmp_path / "model.onnx", images())
        assert made.verification is not None
        assert made.verification.passed


def test_a_graph_that_onnx_refuses_is_one_line(network, tmp_path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise onnx.checker.ValidationError("a name is used twice\n==> Context")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ExportError, match=r"^Sequential cannot be written as ONNX: .* twice$"):
        qs.export_onnx(network, tmp_path / "model.onnx", images())


def test_a_layer_with_tensors_that_are_called_as_ours(tmp_path) -> None:
    class Scaled(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(6, 4, 3)
            self.weight_scale = nn.Parameter(torch.tensor(1.7))
            self.own_bias = nn.Parameter(torch.ones(4, 1, 1))
            self.register_buffer("input_zero", torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.weight_scale + self.own_bias + self.input_zero

    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), Scaled(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    made = qs.export_onnx(calibrated(nn.Sequential(*layers)), tmp_path / "model.onnx", images())
    assert made.verification is not None
    assert made.verification.passed


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"labels": ["a", 1]}, TypeError, "`labels` must be strings, got 1"),
        ({"summary": {"a": np.float32(1)}}, TypeError, "`summary` must contain JSON values"),
        ({"summary": {"a": float("nan")}}, ValueError, "`summary` must contain JSON values"),
    ],
)
def test_what_a_file_can_not_say_of_itself(network, tmp_path, told, error, message) -> None:
    with pytest.raises(error, match=message):
        qs.export_onnx(network, tmp_path / "model.onnx", images(), verify=False, **told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["onnx", "onnxscript"])
def test_a_missing_extra(network, tmp_path, monkeypatch, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'quiesce\[onnx\]'"):
        qs.export_onnx(network, tmp_path / "model.onnx", images())


def test_a_missing_runtime(network, built, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'quiesce\[onnx\]'"):
        session(built[0], optimized=True)


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x0a" * 40])
def test_a_corrupt_file(network, tmp_path, content) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx is damaged or not an ONNX file") as raised:
        qs.verify_onnx(network, tmp_path / "model.onnx", [images()])
    assert "\n" not in str(raised.value)


def test_a_file_that_is_cut_off(network, built, tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(built[0].SerializeToString()[:2000])
    with pytest.raises(ExportError, match=r"model\.onnx is damaged or not an ONNX file"):
        qs.verify_onnx(network, tmp_path / "model.onnx", [images()])


def test_an_onnx_file_of_somebody_else(network, built, tmp_path) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(built[0])
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="was not exported by quiesce"):
        qs.verify_onnx(network, tmp_path / "model.onnx", [images()])


def test_a_file_that_is_not_there(network, tmp_path) -> None:
    with pytest.raises(ExportError, match=r"nowhere\.onnx is not a file"):
        qs.verify_onnx(network, tmp_path / "nowhere.onnx", [images()])


@pytest.mark.parametrize(("bits", "integer"), [(7, True), (8, False)])
def test_a_linear_layer_runs_in_integers_where_two_products_fit_into_16_bits(
    bits, integer, tmp_path
) -> None:
    layers = nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 5)
    overrides = {"3": {"weight_bits": bits, "act_bits": 8}}
    network = calibrated(nn.Sequential(*layers), first_last_bits=None, overrides=overrides)
    codes = next(weight for weight in qs.quantized_weights(network) if weight.name == "3")
    with torch.no_grad():
        codes.latent[0, 0] = 2 * codes.grid.quant_min * codes.scale  # the largest code there is
    made = qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert made.verification is not None
    assert made.verification.passed, made.verification.verdict
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(made.path), options)
    kinds = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert kinds.count("MatMulIntegerToFloat") == integer + 0
    assert kinds.count("MatMul") == 1 + (not integer)
