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


def test_the_program_of_the_how_to_runs(capsys, tmp_path) -> None:
    page = (ROOT / "docs" / "how-to" / "your-loop.md").read_text("utf-8")
    program = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(0, 2, (4,))) for _ in range(4)]
    given = {"model": network(), "float_network": network, "batches": batches, "epochs": 2}
    given["folder"] = tmp_path / "mine"
    exec(program, given)
    assert given["control"].step == 12  # 2 epochs, and one that is recorded
    files = {path.name for path in given["folder"].iterdir()}
    assert files == {"metrics.csv", "layers.csv", "diagnosis.json"}
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


@pytest.mark.slow
def test_the_program_about_language_models_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("gguf")
    from transformers import LlamaConfig, LlamaForCausalLM

    page = (ROOT / "docs" / "how-to" / "language-models.md").read_text("utf-8")
    program = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_attention_heads=2, **sizes))
    ids = torch.randint(0, 40, (2, 9))
    batches = [{"input_ids": ids, "labels": ids}] * 3
    monkeypatch.chdir(tmp_path)
    exec(program, {"model": model, "batches": batches, "tokenizer": None})
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf", "model.onnx"}
    assert "0 of " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_program_about_hugging_face_runs(tmp_path: Path, capsys) -> None:
    from accelerate.state import GradientState
    from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

    page = (ROOT / "docs" / "how-to" / "hugging-face.md").read_text("utf-8")
    programs = [
        "".join(re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL))
        for part in page.split("## Accelerate")
    ]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    config = BertConfig(vocab_size=20, num_attention_heads=2, num_labels=4, **sizes)

    def make_model() -> nn.Module:
        torch.manual_seed(0)
        return BertForSequenceClassification(config)

    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=8,
        save_steps=4,
        logging_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    given = {
        "model": make_model(),
        "make_model": make_model,
        "dataset": [{"input_ids": torch.randint(0, 20, (6,)), "labels": i % 4} for i in range(32)],
        "batch": {"input_ids": torch.randint(0, 20, (4, 6)), "labels": torch.arange(4)},
        "arguments": arguments,
    }
    exec(programs[0], given)
    assert given["callback"].tracker.steps == given["resumed"].tracker.steps == 8
    trained, resumed, loaded = given["model"], given["again"].model, given["loaded"]
    for name, value in trained.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
        assert torch.equal(loaded.state_dict()[name], value), name
    GradientState._reset_state()  # the Trainer has set it for the whole process
    exec(programs[1], given)
    assert given["control"].step == 4
    assert "oscillating %" in capsys.readouterr().out


def test_the_program_about_timm_runs(capsys) -> None:
    import timm

    page = (ROOT / "docs" / "how-to" / "timm.md").read_text("utf-8")
    program = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    model = timm.create_model("test_efficientnet", num_classes=2)
    batches = [(torch.randn(4, 3, 32, 32), torch.randint(0, 2, (4,))) for _ in range(3)]
    given = {"model": model, "batches": batches}
    exec(program, given)
    assert given["control"].step == 6
    assert given["plain"](batches[0][0]).isfinite().all()
    assert "oscillating %" in capsys.readouterr().out


def test_its_make_commands_are_targets() -> None:
    named = set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE))
    assert "demo" in named
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "site"),
    *ROOT.glob("experiments/*/README.md"),
    ROOT / "examples" / "README.md",
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
    """By itself, or by the list of targets, of which each has a page."""
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in (ROOT / "README.md", ROOT / "docs" / "how-to" / "deploy" / "README.md")
        for link in LINK.findall(page.read_text("utf-8"))
    } | {ROOT / "docs" / "how-to" / "deploy" / "README.md"}
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
