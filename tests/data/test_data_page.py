"""The blocks of docs/how-to/data.md run."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from quiesce.cli import main
from support import tiny
from support.pictures import jpeg

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "data.md").read_text("utf-8")


def block(package: str, language: str) -> str:
    """Return the block of a language in the section of a package."""
    section = next(each for each in PAGE.split("\n## ") if each.startswith(package))
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    return found


@pytest.mark.parametrize(
    ("section", "package"), [("Hugging Face", "datasets"), ("WebDataset", "webdataset")]
)
def test_data_that_the_page_writes_trains(section, package, tmp_path, monkeypatch, capsys) -> None:
    module = pytest.importorskip(package, reason=f"needs the extra {package}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = [{"bytes": jpeg(number), "path": None} for number in range(32)]
    labels = [number % 2 for number in range(32)]
    halves = {"pictures": pictures, "labels": labels}
    halves |= {"test_pictures": pictures[:8], "test_labels": labels[:8]}
    exec(block(section, "python"), {package: module, "os": os, **halves})
    _, *command = shlex.split(block(section, "sh").replace("\\\n", " "))
    named = {flag.partition("=")[0] for flag in command}
    flags = [flag for flag in tiny.flags() if flag.partition("=")[0] not in named]
    assert main([*command, *flags]) == 0
    (summary,) = tmp_path.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["steps"] == 2
