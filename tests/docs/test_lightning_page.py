"""The program of docs/how-to/lightning.md runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "lightning.md"


@pytest.mark.filterwarnings("ignore")
def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    program = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    images, labels = torch.randn(32, 3, 8, 8), torch.randint(0, 4, (32,))
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 4)),
    )
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    given: dict[str, object] = {"network": network, "loader": loader}
    exec(program, given)
    assert "after 8 steps" in capsys.readouterr().out
    assert given["plain"](images).isfinite().all()
