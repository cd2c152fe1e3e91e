"""Runs a program of examples/ in this process, and a notebook in a kernel."""

import logging
import runpy
import tempfile
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The variables of a program at its end; it writes its files into `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(logging.root.manager, "disable", 0)  # a program may silence others
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def run_notebook(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the cells of a notebook print; its kernel works in `folder`."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("TMPDIR", str(folder))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": folder}}
    ).execute()
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", [])]
    return "".join(each.text for each in outputs if each.output_type == "stream")
