"""The .pt2 of torch.export."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quiesce import export
from quiesce.errors import ExportError, MismatchError, NotCalibratedError
from quiesce.export import program as program_module
from quiesce.export.program import export_program
from quiesce.scheme import Scheme

from .networks import calibrated, images, mobile


@pytest.mark.parametrize("scheme", [{}, {"per_channel": True}, {"learn_offset": True}])
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
        def __init__(self, codes, scale) -> None:
            super().__init__(codes.clone(), scale)
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


def test_an_existing_file_is_refused(network, tmp_path) -> None:
    (tmp_path / "model.pt2").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_program(network, tmp_path / "model.pt2", images())


def test_a_model_never_calibrated(tmp_path) -> None:
    from quiesce.prepare import prepare

    network = prepare(mobile(), Scheme(), images())
    with pytest.raises(NotCalibratedError):
        export_program(network, tmp_path / "model.pt2", images())
