"""What the README says, done."""

import re
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(128, 2),
    )


def test_the_example_runs_and_prints_a_summary(capsys) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(0, 2, (4,))) for _ in range(4)]
    given = {
        "model": network(),
        "images": batches[0][0],
        "calibration_batches": batches,
        "batches": batches,
        "steps": len(batches),
    }
    exec(example, given)
    assert given["control"].step == len(batches)
    assert "oscillating=" in capsys.readouterr().out


def test_the_program_of_the_how_to_runs(capsys) -> None:
    page = (ROOT / "docs" / "how-to" / "your-loop.md").read_text("utf-8")
    program = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(0, 2, (4,))) for _ in range(4)]
    given = {"model": network(), "float_network": network, "batches": batches, "epochs": 2}
    exec(program, given)
    assert given["control"].step == 8
    resumed, trained = given["again"].state_dict(), given["state"]["model"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # re-estimated since
    learned = [name for name in trained if not name.endswith(statistics)]
    assert all(torch.equal(resumed[name], trained[name]) for name in learned)
    assert "oscillating=" in capsys.readouterr().out


def test_its_make_commands_are_targets() -> None:
    named = set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE))
    assert named == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([\w./-]+\.\w+)\)", README)
    assert len(links) >= 4
    assert all((ROOT / link).is_file() for link in links)
