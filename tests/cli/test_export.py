"""`quiesce export`, `quiesce verify` and `quiesce predict`."""

import errno
import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn
from torchvision.transforms import Resize

import quiesce as qs
from quiesce.after_training.export import verify_run
from quiesce.after_training.finished import read_finished
from quiesce.cli import main
from quiesce.export.metadata import Preprocessing
from quiesce.export.predict import Predictor, read_pixels
from support.messages import tells
from support.tiny import FOUR_BITS


@pytest.fixture(scope="session")
def run_folder(trained):
    return trained(*FOUR_BITS)


@pytest.fixture(scope="module")
def exporting(run_folder, tmp_path_factory):
    """A file, and what the command printed that wrote it."""
    path, out = tmp_path_factory.mktemp("export") / "model.onnx", io.StringIO()
    with redirect_stdout(out):
        assert main(["export", str(run_folder), "-o", str(path)]) == 0
    return path, out.getvalue()


@pytest.fixture(scope="module")
def exported(exporting):
    return exporting[0]


def test_export_says_what_it_wrote_and_that_it_is_verified(exporting):
    path, out = exporting
    assert f"{path}: {path.stat().st_size:,} bytes, 21 quantized layers" in out
    assert "verified: weights exact; " in out
    assert "not verified" not in out


@pytest.mark.slow
def test_a_run_with_quantized_additions_is_exported_and_verified(tiny_flags, tmp_path, capsys):
    folder, path = str(tmp_path / "run"), str(tmp_path / "model.onnx")
    flags = [*tiny_flags, "--scheme.residual=quantized", f"--run={folder}"]
    assert main(["train", "mnist_lsq_w4a4", *flags]) == 0
    assert main(["export", folder, "-o", path]) == 0
    assert "in integers: 18 of " in capsys.readouterr().out
    assert main(["verify", folder, path]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verified: ")


@pytest.mark.slow
def test_rounded_biases_let_8_bit_layers_run_in_integers(tiny_flags, tmp_path, capsys):
    folder, path = str(tmp_path / "run"), str(tmp_path / "model.onnx")
    bits = ["--scheme.act_bits=8", "--scheme.residual=quantized", "--data.test_images=512"]
    flags = [*tiny_flags, *bits, f"--run={folder}"]
    assert main(["train", "mnist_lsq_w4a4", *flags]) == 0
    assert main(["export", folder, "-o", str(tmp_path / "plain.onnx")]) == 0
    assert "--round-biases" in capsys.readouterr().out
    assert main(["export", folder, "-o", path, "--round-biases"]) == 0
    assert "in integers: 18 of " in capsys.readouterr().out
    assert main(["verify", folder, path]) == 0


@pytest.mark.parametrize("kind", ["onnx", "program", "npz"])
def test_force_replaces_a_file(of_network, run_folder, tmp_path, kind) -> None:
    of_network(prepared(small()))
    path = tmp_path / "model"
    path.write_text("old")
    check = [] if kind == "npz" else ["--no-verify"]
    asked = ["export", str(run_folder), "-o", str(path), "--format", kind, *check]
    assert main([*asked, "--force"]) == 0
    assert path.read_bytes() != b"old"


def test_no_verify_says_so(of_network, run_folder, tmp_path, capsys):
    of_network(prepared(small()))
    path = tmp_path / "model.onnx"
    assert main(["export", str(run_folder), "-o", str(path), "--no-verify"]) == 0
    assert capsys.readouterr().out.endswith("not verified\n")


def test_verify_prints_the_layers_that_differ_and_both_accuracies(run_folder, exported, capsys):
    found = verify_run(run_folder, exported, None, [])
    differing = [each for each in found.layers if each.differ or each.optimisations]
    assert main(["verify", str(run_folder), str(exported)]) == 0
    out = capsys.readouterr().out
    shown = [each for each in found.layers if f" {each.made_by} " in out]
    assert shown == differing
    assert f"{len(found.layers) - len(differing)} of {len(found.layers)} layers" in out
    assert max(map(len, out.splitlines()[:-2])) <= 80
    assert "top-1: trained " in out
    assert out.splitlines()[-1].startswith("verified: weights exact; ")


def test_verify_prints_json(run_folder, exported, capsys):
    assert main(["verify", str(run_folder), str(exported), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["passed"] is True
    assert len(tree["layers"]) == 20


def test_verify_fails_with_exit_code_1_and_the_layer(run_folder, exported, tmp_path, capsys):
    proto = onnx.load(exported)
    for tensor in proto.graph.initializer:
        if tensor.name == "blocks.0.depthwise.0.weight_scale":
            array = numpy_helper.to_array(tensor) * np.float32(1.2)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, tmp_path / "other.onnx")
    assert main(["verify", str(run_folder), str(tmp_path / "other.onnx")]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("DIFFERS: blocks.0.depthwise.0: ")


def test_export_that_would_be_wrong_exits_with_1(
    of_network, run_folder, tmp_path, monkeypatch, capsys
):
    of_network(prepared(small()))
    monkeypatch.setattr("quiesce.export.verification.result.MAX_CODES", -1)
    assert main(["export", str(run_folder), "-o", str(tmp_path / "model.onnx")]) == 1
    assert " 0: " in capsys.readouterr().out  # the layer
    assert list(tmp_path.iterdir()) == []


def test_the_file_knows_labels_and_summary_and_no_path(run_folder, exported):
    proto = onnx.load(exported)
    (text,) = (each.value for each in proto.metadata_props if each.key == "quiesce")
    tree = json.loads(text)
    summary = json.loads((run_folder / "summary.json").read_text())
    assert tree["labels"] == ["class_0", "class_1", "class_2", "class_3"]
    assert tree["summary"]["top1_percent"] == summary["top1_percent"]
    assert str(run_folder.parent).encode() not in exported.read_bytes()


def test_a_loss_that_is_not_finite_is_told_as_none(of_network, run_folder, tmp_path):
    of_network(prepared(small()))
    folder, path = tmp_path / "run", tmp_path / "model.onnx"
    shutil.copytree(run_folder, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["train_loss"] = float("nan")
    (folder / "summary.json").write_text(json.dumps(summary))
    assert main(["export", str(folder), "-o", str(path), "--no-verify"]) == 0
    (text,) = (each.value for each in onnx.load(path).metadata_props if each.key == "quiesce")
    assert json.loads(text)["summary"]["train_loss"] is None


@pytest.fixture
def pictures(tmp_path):
    noise = np.random.default_rng(0)
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for path, side in zip(paths, (16, 40), strict=True):
        Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def test_predict_names_the_classes(exported, pictures, capsys):
    assert main(["predict", str(exported), *pictures, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == pictures
    assert all("class_" in line and "%" in line for line in (*lines[1:3], *lines[4:]))


def test_a_picture_is_resized_as_in_training(tmp_path):
    size, scale = (100, 425), 232  # of 232 * 425 / 100 = 986 the other order makes 985.99...
    Image.new("L", size).save(tmp_path / "thin.png")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        plain = Image.Image.resize
        patch.setattr(
            Image.Image, "resize", lambda self, to, *a: seen.append(to) or plain(self, to, *a)
        )
        Resize(scale)(Image.open(tmp_path / "thin.png"))
        how = Preprocessing(mean=(0.0,), std=(1.0,), size=(224, 224), resize=scale)
        assert read_pixels(tmp_path / "thin.png", how, 1).shape == (1, 224, 224)
    assert [tuple(to) for to in seen] == [(232, 986)] * 2


def test_predict_needs_no_torch(exported, pictures):
    code = f"""
import sys
for name in ("torch", "onnx_ir", "onnxscript", "lightning", "timm", "jsonargparse"):
    sys.modules[name] = None
from quiesce.cli import main
sys.exit(main(["predict", {str(exported)!r}, {pictures[0]!r}]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "class_0" in ran.stdout


def test_raw_pixels_give_the_same_classes(of_network, run_folder, pictures, tmp_path, capsys):
    of_network(prepared(small()))
    outs = []
    for kind in ("float", "uint8"):
        path = str(tmp_path / f"{kind}.onnx")
        assert main(["export", str(run_folder), "-o", path, "--input", kind]) == 0
        capsys.readouterr()
        assert main(["predict", path, pictures[0]]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]


def test_npz_holds_the_trained_codes(of_network, run_folder, tmp_path, capsys):
    of_network(prepared(small()))
    path = tmp_path / "model.npz"
    assert main(["export", str(run_folder), "-o", str(path), "--format", "npz"]) == 0
    with np.load(path) as arrays:
        header = json.loads(str(arrays["header"]))
        names = [layer["name"] for layer in header["layers"]]
        assert names == ["0", "3"]
        assert all(arrays[f"{name}.codes"].dtype == np.int8 for name in names)
    assert "2 quantized layers" in capsys.readouterr().out


def test_a_program_is_verified_bit_for_bit(of_network, run_folder, tmp_path, capsys):
    of_network(prepared(small()))
    path = tmp_path / "model.pt2"
    assert main(["export", str(run_folder), "-o", str(path), "--format", "program"]) == 0
    assert "\nverified: " in capsys.readouterr().out
    assert path.stat().st_size > 0


# bad input: one line, exit code 2, nothing made


def test_a_folder_that_is_no_run(refused, tmp_path):
    assert "is not a run folder" in refused("export", tmp_path, "-o", "model.onnx")


def test_no_output(refused, run_folder):
    assert "-o/--output" in refused("export", run_folder)


def test_an_output_that_exists(refused, run_folder, tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    told = refused("export", run_folder, "-o", tmp_path / "model.onnx")
    assert tells(told, "model.onnx", "--force")


@pytest.mark.parametrize("kind", ["onnx", "program", "npz"])
def test_an_output_in_no_folder_is_refused_before_the_run_is_read(
    refused, run_folder, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("quiesce.after_training.export.read_finished", lambda *_: 1 / 0)
    told = refused("export", run_folder, "-o", tmp_path / "nowhere" / "model", "--format", kind)
    assert f"there is no folder {tmp_path / 'nowhere'}" in told


def test_an_opset_too_old_for_int4(refused, run_folder):
    told = refused("export", run_folder, "-o", "m.onnx", "--pack", "int4", "--opset", "20")
    assert tells(told, "int4", "opset 21", "20")


def test_a_format_that_is_none(refused, run_folder):
    assert "--format" in refused("export", run_folder, "-o", "m.onnx", "--format", "tflite")


def test_packing_an_npz(refused, run_folder):
    told = refused("export", run_folder, "-o", "m.npz", "--format", "npz", "--pack", "int4")
    assert "--pack needs --format onnx" in told


def test_a_missing_extra(refused, run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    told = refused("export", run_folder, "-o", "m.onnx")
    assert "pip install 'quiesce[onnx]'" in told


@pytest.fixture
def of_network(monkeypatch):
    """Lets run folders hold another network, (batch, 3, 16, 16) to 4 classes."""

    def put(network):
        monkeypatch.setattr(
            "quiesce.after_training.export.read_finished",
            lambda *args: replace(read_finished(*args), network=network),
        )

    return put


def prepared(network, *, calibrated=True):
    images = torch.rand(4, 3, 16, 16)
    qs.prepare(network, qs.Scheme(weight_bits=4, act_bits=4), images)
    return qs.calibrate(network, [images]) if calibrated else network


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 4))


class Branches(nn.Module):
    """Two layers; the second is called, and its output dropped."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(3, 4, 16)
        self.idle = nn.Conv2d(3, 4, 16)

    def forward(self, x):
        self.idle(x)
        return self.used(x).flatten(1)


class Memory(nn.Module):
    """A recurrent layer, which has no quantizer, between two that have, and a weight of its own."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.eye(8))
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.memory = nn.GRU(7, 8, batch_first=True)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.memory(self.first(x).mean(1))[0][:, -1] @ self.mix)


def test_a_model_never_calibrated(refused, of_network, run_folder):
    of_network(prepared(small(), calibrated=False))
    told = refused("export", run_folder, "-o", "m.onnx", "--no-verify")
    assert tells(told, "scale", "quiesce.calibrate")


def test_a_layer_on_no_path(refused, of_network, run_folder):
    of_network(prepared(Branches()))
    told = refused("export", run_folder, "-o", "m.onnx", "--no-verify")
    assert tells(told, "idle", "1 of 2")


@pytest.mark.parametrize(
    "kind", ["program", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("onnx", "npz"))]
)
def test_an_unsupported_module_is_left_in_float_and_named(
    of_network, run_folder, tmp_path, capsys, kind
):
    of_network(prepared(Memory()))
    argv = ["export", str(run_folder), "-o", str(tmp_path / "m"), "--format", kind, "--no-verify"]
    assert main(argv) == 0
    assert "left in float: Memory, memory\n" in capsys.readouterr().out


def test_a_disk_that_fills_up_leaves_no_half_file(refused, of_network, run_folder, monkeypatch):
    of_network(prepared(small()))

    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    told = refused("export", run_folder, "-o", "m.onnx", "--no-verify")
    assert "No space left on device" in told


@pytest.mark.parametrize("command", ["verify", "predict"])
@pytest.mark.parametrize("content", [b"", b"this is no ONNX file"])
def test_a_corrupt_onnx(refused, run_folder, pictures, tmp_path, command, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    rest = [run_folder, tmp_path / "bad.onnx"] if command == "verify" else []
    rest = rest or [tmp_path / "bad.onnx", pictures[0]]
    assert "bad.onnx" in refused(command, *rest)


@pytest.mark.parametrize("command", ["verify", "predict"])
def test_an_onnx_of_somebody_else(refused, run_folder, exported, pictures, tmp_path, command):
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    rest = [run_folder, tmp_path / "other.onnx"] if command == "verify" else []
    rest = rest or [tmp_path / "other.onnx", pictures[0]]
    assert "was not exported by quiesce" in refused(command, *rest)


def changed_numbers(proto):
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    entry = proto.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../secret"
    proto.graph.initializer[0].ClearField("raw_data")


def changed_size(proto):
    proto.graph.initializer[0].dims[:] = [2**20, 2**20]


def changed_description(proto, **fields):
    text = next(each for each in proto.metadata_props if each.key == "quiesce")
    text.value = json.dumps({**json.loads(text.value), **fields})


HOSTILE = {
    "is in another file": changed_numbers,
    "is damaged or not an ONNX file": changed_size,
    "its description is damaged": lambda proto: changed_description(proto, layers=[{"name": 1}]),
}


@pytest.mark.parametrize("command", ["verify", "predict"])
@pytest.mark.parametrize("told", HOSTILE)
def test_an_onnx_that_reaches_out(refused, run_folder, exported, pictures, tmp_path, command, told):
    proto = onnx.load(exported)
    HOSTILE[told](proto)
    (tmp_path / "bad.onnx").write_bytes(proto.SerializeToString())
    rest = [run_folder, tmp_path / "bad.onnx"] if command == "verify" else []
    rest = rest or [tmp_path / "bad.onnx", pictures[0]]
    assert told in refused(command, *rest)


def test_metadata_that_are_no_text(refused, exported, pictures, tmp_path):
    content = exported.read_bytes().replace(b'"labels"', b'"\xff\xfebels"')
    (tmp_path / "bad.onnx").write_bytes(content)
    assert "bad.onnx" in refused("predict", tmp_path / "bad.onnx", pictures[0])


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "PIL"])
def test_predict_names_the_extra_that_it_lacks(refused, exported, pictures, monkeypatch, package):
    for name in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'quiesce[onnx]'" in refused("predict", exported, pictures[0])


@pytest.mark.parametrize("size", [[10**6, 10**6], [16], ["a", "b"]])
def test_pictures_of_an_absurd_size(refused, exported, pictures, tmp_path, size):
    proto = onnx.load(exported)
    how = {"mean": [0, 0, 0], "std": [1, 1, 1], "size": size}
    changed_description(proto, preprocessing=how)
    (tmp_path / "bad.onnx").write_bytes(proto.SerializeToString())
    told = refused("predict", tmp_path / "bad.onnx", pictures[0])
    assert "its description is damaged" in told


def test_a_picture_that_is_none(refused, exported, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    assert "no.png cannot be decoded" in refused("predict", exported, tmp_path / "no.png")


def test_a_picture_that_is_not_there(refused, exported, tmp_path):
    assert "no.png is not a file" in refused("predict", exported, tmp_path / "no.png")


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_classes_than_one(refused, exported, pictures, count):
    told = refused("predict", exported, pictures[0], "--top", count)
    assert f"--top must be at least 1 class, got {count}" in told
    with pytest.raises(ValueError, match=f"`count` must be at least 1 class, got {count}"):
        Predictor(exported)(Path(pictures[0]), count)


def test_data_for_a_run_that_reads_none(refused, run_folder, exported, tmp_path):
    told = refused("verify", run_folder, exported, "--data", tmp_path)
    assert tells(told, "made_up", "--data")
