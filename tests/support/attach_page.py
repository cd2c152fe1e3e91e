"""The programs of docs/how-to/attach.md."""

import re
from pathlib import Path
from typing import Any

import torch

import quiesce

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "attach.md"


def program(section: str, part: int = 0) -> str:
    """A block of a section, by its heading."""
    after = PAGE.read_text("utf-8").partition(f"\n## {section}\n")[2]
    text = after.partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[part]


def definitions(section: str, part: int = 0) -> dict[str, Any]:
    """What a block defines before it makes a model."""
    found: dict[str, Any] = {"torch": torch, "quiesce": quiesce}
    exec(program(section, part).partition("\nmodel = ")[0], found)
    return found
