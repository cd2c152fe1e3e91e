"""JSON and YAML as trees of plain values that are no larger than they look.

A few hundred bytes of YAML can stand for gigabytes ("billion laughs": aliases of aliases), and deep
nesting exhausts the stack. The YAML is therefore first walked event by event, without building it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quiesce.extras import require
from quiesce.files.untrusted.limits import LARGEST_TREE, read_text

DEEPEST = 100
"""Levels of a tree."""

MOST_DIGITS = 20
"""Digits of a whole number in JSON: 64 bits."""

LARGEST_YAML = 2**17
"""Bytes of a YAML file; recipes have a few thousand."""

LARGEST_EXPANDED = 2**20
"""Characters and nodes of a YAML file in which every alias is written out."""


def parse_json(text: str) -> Any:
    """Return what a JSON text holds; raise a ValueError if it is no JSON or nested too deeply."""
    try:
        tree = json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from error
    _refuse_deep(tree)
    return tree


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raises what `read_text` and `parse_json` raise."""
    return parse_json(read_text(path, LARGEST_TREE))


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds: plain values alone, no objects of any class.

    Raises:
        ValueError: It is no YAML, nested too deeply, or too large once its aliases are written out.
        MissingExtraError: PyYAML is not installed.
    """
    yaml = require("yaml", "reading YAML", "train")
    try:
        _refuse_large(yaml, yaml.parse(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (
        Exception
    ) as error:  # a date of no calendar, a tag that does not fit: what it raises is open
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; raises what `read_text` and `parse_yaml` raise."""
    return parse_yaml(read_text(path, LARGEST_YAML))


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number has more than {MOST_DIGITS} digits")
    return int(digits)


def _refuse_deep(tree: Any) -> None:
    level = [tree]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _inside(tree: Any) -> Iterable[Any]:
    if isinstance(tree, dict):
        return tree.values()
    return tree if isinstance(tree, list) else ()


def _refuse_large(yaml: Any, events: Iterable[Any]) -> None:
    """Measure a YAML text as it is with its aliases written out."""
    sizes: dict[str, int] = {}
    inside: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size so far, from the root on

    def add(size: int) -> None:
        anchor, so_far = inside[-1]
        inside[-1] = anchor, so_far + size
        if so_far + size > LARGEST_EXPANDED:
            raise ValueError("it is too large with its aliases expanded")

    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in inside):
                raise ValueError(f"*{event.anchor} contains itself")
            add(sizes.get(event.anchor, 0))
        elif isinstance(event, yaml.ScalarEvent):
            if "\0" in event.value:
                raise ValueError("it holds a NUL character, which names and paths cannot have")
            add(size := 1 + len(event.value))
            sizes[event.anchor or ""] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, 1))
            if len(inside) > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = inside.pop()
            sizes[anchor or ""] = size
            add(size)
