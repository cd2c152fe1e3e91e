"""The .pt2 of torch.export."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quiesce import export
from quiesce.errors import ExportError, MismatchError, NotCalibratedError, NothingToDoError
from quiesce.export import program as program_module
from quiesce.export.arrays import export_arrays
from quiesce.export.interface import output_tensors
from quiesce.export.onnx import export_onnx
from quiesce.export.program import export_program
from quiesce.quantization.scheme import Scheme
from support.messages import telling

from .networks import calibrated, images, mobile


@pytest.mark.parametrize(
    "scheme",
    [
        {"per_channel": True},
        *(pytest.param(x, marks=pytest.mark.slow) for x in ({}, {"learn_offset": True})),
    ],
)
def test_it_computes_the_same_bit_for_bit_with_any_number_of_images(scheme, tmp_path) -> None:
    network = calibrated(mobile(), **scheme)
    export_program(network, tmp_path / "model.pt2", images())
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for count in (3, 16):
        with torch.no_grad():
            assert torch.equal(loaded(images(count)), network(images(count)))


def test_torch_alone_loads_it_and_no_float_weight_is_inside(network, tmp_path) -> None:
    export_program(network, tmp_path / "model.pt2", images())
    code = f"""
import sys, torch
program = torch.export.load({str(tmp_path / "model.pt2")!r})
out = program.module()(torch.zeros(2, 3, 12, 12))
kinds = {{t.dtype for n, t in program.state_dict.items() if n.endswith("codes")}}
big = [n for n, t in program.state_dict.items() if t.dim() > 1 and t.is_floating_point()]
print(tuple(out.shape), kinds, big, "quiesce" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "(2, 5) {torch.int8} [] False"


class Gated(nn.Module):
    """A branch that depends on the input has a graph of its own in the file."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.mean() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


def test_nothing_of_the_machine_and_no_image_is_inside(tmp_path) -> None:
    network = calibrated(nn.Sequential(mobile(), Gated()))
    export_program(network, tmp_path / "model.pt2", images())
    packages = Path(torch.__file__).parent.parent
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in members.items():
        for trace in (".py", Path.cwd(), packages, Path(export.__file__).parent):
            assert str(trace).encode() not in content, name
        assert images()[0].numpy().tobytes()[:64] not in content
    (inputs,), _ = torch.export.load(tmp_path / "model.pt2").example_inputs
    assert not inputs.any()


def test_one_wrong_weight_is_caught(network, tmp_path, monkeypatch) -> None:
    class Wrong(program_module.PlainWeight):
        def __init__(self, weight) -> None:
            super().__init__(weight)
            self.codes = self.codes.clone()
            self.codes.view(-1)[0] ^= 1

    monkeypatch.setattr(program_module, "PlainWeight", Wrong)
    with pytest.raises(MismatchError, match="0: its weight codes in the file are not"):
        export_program(network, tmp_path / "model.pt2", images())
    assert list(tmp_path.iterdir()) == []


def test_one_wrong_scale_is_caught(network, tmp_path, monkeypatch) -> None:
    class Wrong(program_module.PlainInput):
        def __init__(self, quantizer) -> None:
            super().__init__(quantizer)
            self.scale *= 1.05

    monkeypatch.setattr(program_module, "PlainInput", Wrong)
    with pytest.raises(MismatchError, match="its logits differ from the model's"):
        export_program(network, tmp_path / "model.pt2", images())


def test_a_model_that_is_one_layer(tmp_path) -> None:
    network = calibrated(nn.Conv2d(3, 4, 3))
    export_program(network, tmp_path / "model.pt2", images())
    with torch.no_grad():
        assert torch.equal(
            torch.export.load(tmp_path / "model.pt2").module()(images()), network(images())
        )


class Paths(nn.Module):
    """Layers on a path to the output under two names, twice, in a branch; and one on none."""

    def __init__(self, *, idle: bool) -> None:
        super().__init__()
        self.stem = self.alias = nn.Conv2d(3, 3, 3, padding=1)
        self.twin = nn.Conv2d(3, 3, 3, padding=1)
        self.twin.weight = self.stem.weight
        self.idle = nn.Conv2d(3, 3, 3)
        self.drops = idle

    def forward(self, x: Tensor) -> Tensor:
        x = self.twin(self.stem(self.alias(x)))
        x += 1
        y = self.idle(x)
        return x if self.drops else y


def test_a_layer_on_no_path_is_refused(tmp_path) -> None:
    export_program(calibrated(Paths(idle=False)), tmp_path / "model.pt2", images())
    with pytest.raises(NothingToDoError, match=r"idle is on no path .* \(1 of 3 layers are not\)"):
        export_program(calibrated(Paths(idle=True)), tmp_path / "other.pt2", images())
    assert not (tmp_path / "other.pt2").exists()


class Wrapped(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        return {"y": y} if self.kind is dict else self.kind([y])


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_a_model_that_returns_a_collection(kind, tmp_path) -> None:
    network = calibrated(Wrapped(kind))
    export_program(network, tmp_path / "model.pt2", images())
    made = torch.export.load(tmp_path / "model.pt2").module()(images())
    assert isinstance(made, kind)
    with torch.no_grad():
        for ours, theirs in zip(
            output_tensors(network(images())).values(), output_tensors(made).values(), strict=True
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("export", [export_program, export_arrays])
def test_a_model_in_half_precision_is_refused(export, dtype, tmp_path) -> None:
    network = calibrated(mobile()).to(dtype)
    with pytest.raises(ExportError, match=r"export model\.float\(\)"):
        export(network, tmp_path / "file", images())


@pytest.mark.parametrize("export", [export_program, export_arrays, export_onnx])
def test_a_folder_that_is_not_there_and_a_batch_of_nothing(export, network, tmp_path) -> None:
    with pytest.raises(ExportError, match=r"no folder .*nowhere; create it first"):
        export(network, tmp_path / "nowhere" / "file", images())
    with pytest.raises(ValueError, match=r"one entry or more.* \(0, 3, 12, 12\)"):
        export(network, tmp_path / "file", images(0))
    with pytest.raises(TypeError, match=telling("`example_input`", "list")):
        export(network, tmp_path / "file", ["text"])


def test_an_existing_file_is_refused(network, tmp_path) -> None:
    (tmp_path / "model.pt2").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_program(network, tmp_path / "model.pt2", images())


def test_a_model_never_calibrated(tmp_path) -> None:
    from quiesce.quantization.prepare import prepare

    network = prepare(mobile(), Scheme(), images())
    with pytest.raises(NotCalibratedError):
        export_program(network, tmp_path / "model.pt2", images())
