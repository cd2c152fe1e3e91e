"""Formats names and descriptions in two columns that fit the terminal."""

import shutil
import textwrap
from collections.abc import Mapping


def listing(texts: Mapping[str, str], indent: str = "") -> str:
    """Return one entry for each name, wrapped to the width of the terminal."""
    width = max(40, shutil.get_terminal_size().columns)
    left = max(map(len, texts)) + 2
    lines = []
    for name, text in texts.items():
        first = f"{indent}{name:<{left}}"
        rest = " " * len(first)
        lines.append(textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest))
    return "\n".join(lines)
