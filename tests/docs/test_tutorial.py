"""The program of docs/tutorial.md runs, on fewer images than its reader has."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import quiesce.data

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    build = quiesce.data.build_data

    def few(*args, **options):
        """120 batches of 8 images: as many steps as a target needs at least."""
        data = build(*args, **options)
        train = [(images[:8], labels[:8]) for images, labels in [*data.train, *data.train][:120]]
        test = [(images[:100], labels[:100]) for images, labels in list(data.test)[:1]]
        return SimpleNamespace(train=train, test=test)

    monkeypatch.setattr(quiesce.data, "build_data", few)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) > 5
    program = "".join(blocks)
    assert "float_epochs, epochs = 5, 8\n" in program
    given: dict[str, object] = {}
    exec(program.replace("epochs = 5, 8\n", "epochs = 2, 3\n"), given)
    printed = capsys.readouterr().out
    assert given["found"].passed
    assert f"{given['right']} of 100" in printed
    assert {"lsq.html", "both.html", "digits.onnx", "runs"} == {p.name for p in tmp_path.iterdir()}


def test_every_block_of_its_has_its_output() -> None:
    printed = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(printed) == PAGE.count("```python")
    assert all(printed)
