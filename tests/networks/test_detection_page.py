"""The program of docs/how-to/detection.md runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import LRASPP

import quiesce as qs

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "detection.md"


def pictures() -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    return [(torch.rand(3, 96, 96 + 8 * place), target) for place in range(4)]


class Features(nn.Module):
    """A small backbone; test_torchvision.py exports a large one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, stride=4), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low = self.stem(images)
        return {"low": low, "high": self.body(low)}


@pytest.mark.slow
def test_the_program_of_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    program = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL))
    loader = DataLoader(pictures(), batch_size=2, collate_fn=lambda batch: tuple(zip(*batch)))  # type: ignore[arg-type]  # noqa: B905
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    segmenter = LRASPP(Features(), low_channels=8, high_channels=16, num_classes=4)
    qs.reestimate_batchnorm(model, loader)  # as those of a trained one
    qs.reestimate_batchnorm(segmenter, [torch.rand(2, 3, 64, 64)])
    given = {"model": model, "segmenter": segmenter, "loader": loader, "steps": 2}
    exec(program, given)
    assert given["control"].step == 2
    assert given["found"].compare == "same_classes"
    assert {path.name for path in tmp_path.iterdir()} == {"detector.onnx", "segments.onnx"}
    assert "layers equal" in capsys.readouterr().out
