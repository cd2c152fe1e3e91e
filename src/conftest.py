"""Runs the examples in docstrings, as the page of the reference says."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NEEDS = {
    "exporting.export": "onnxruntime",
    "onnx.export_onnx": "onnxruntime",
    "verify.verify_onnx": "onnxruntime",
    "audit.audit": "onnxruntime",
    "writing.export_gguf": "gguf",
    "tune.tune": "optuna",
}
"""End of the name of an example to a module without which it is skipped; these are slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the examples that take seconds, and skip those without their extra."""
    for item in items:
        for name, module in NEEDS.items():
            if isinstance(item, pytest.DoctestItem) and item.name.endswith(name):
                item.add_marker(pytest.mark.slow)
                missing = find_spec(module) is None
                item.add_marker(pytest.mark.skipif(missing, reason=f"{module} is missing"))


@pytest.fixture(autouse=True)
def _examples(
    doctest_namespace: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the lines with which every example begins, as the reference says."""
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[1] / "docs" / "site" / "reference.md"
    (lines,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    exec(lines, doctest_namespace)
