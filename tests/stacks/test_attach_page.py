"""The programs of docs/how-to/attach.md run."""

from pathlib import Path

import pytest
import torch

from support.attach_page import program
from support.stacks import IMAGES, LABELS, Tiny, TinyLinear, is_installed

pytestmark = pytest.mark.filterwarnings("ignore")

SECTIONS = {
    "Brevitas": "brevitas",
    "torchao quantize_": "torchao",
    "torchao PT2E": "executorch",
    "NVIDIA ModelOpt": "modelopt",
    "AIMET": "aimet_torch",
}
STEPS = 6


def run(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    given: dict[str, object] = {
        "network": Tiny,
        "images": IMAGES,
        "batches": [(IMAGES + 0.1 * step, LABELS) for step in range(STEPS)],
    }
    if "convert_pt2e" in text:  # which takes 15 seconds for a batch norm
        given["network"] = lambda conv, linear: TinyLinear()
    exec(program("The loop"), given)
    exec(text, given)
    assert given["control"].step == STEPS
    return given


@pytest.mark.parametrize("section", SECTIONS)
def test_the_program_of_a_toolkit_runs(section, tmp_path, monkeypatch, capsys) -> None:
    if not is_installed(SECTIONS[section]):
        pytest.skip(f"{SECTIONS[section]} is not installed")
    text = program(section)
    assert sum("# quiesce" in line for line in (program("The loop") + text).splitlines()) == 10
    run(text, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert f"after {STEPS} steps" in printed
    assert "\n0 of " in printed
    assert " codes changed" in printed


def test_the_adapter_of_quanto_runs(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("optimum.quanto")
    run(program("Another toolkit"), tmp_path, monkeypatch)
    assert "\n0 of " in capsys.readouterr().out


@pytest.mark.skipif(not is_installed("nncf"), reason="NNCF is not installed and compiled")
def test_the_adapter_of_nncf_runs(tmp_path, monkeypatch) -> None:
    run(program("Another toolkit", 1), tmp_path, monkeypatch)
