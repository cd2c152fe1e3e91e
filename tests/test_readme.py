"""The README and the pages of docs: their programs run, their links resolve."""

import re
from pathlib import Path

import pytest
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
    assert "oscillating %" in capsys.readouterr().out


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
    assert "oscillating %" in capsys.readouterr().out


def test_the_program_about_averages_runs() -> None:
    page = (ROOT / "docs" / "how-to" / "averages.md").read_text("utf-8")
    program = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(0, 2, (4,))) for _ in range(4)]
    given = {"model": network(), "make_network": network, "batches": batches}
    exec(program, given)
    assert given["control"].step == 3 * len(batches)
    assert given["swa"].n_averaged == len(batches)
    assert given["plain"](batches[0][0]).isfinite().all()


def test_its_make_commands_are_targets() -> None:
    named = set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE))
    assert named == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("experiments/*/README.md"),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page: Path) -> None:
    for link in LINK.findall(text_of(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_links_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(README)}
    assert {page for page in PAGES if page.parent != ROOT and "experiments" not in page.parts} <= (
        linked
    )


def test_every_test_that_reliability_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", page)
    assert named
    for file, name in named:
        source = (ROOT / file).read_text("utf-8")
        assert not name or f"def {name}(" in source, f"{file}::{name}"
