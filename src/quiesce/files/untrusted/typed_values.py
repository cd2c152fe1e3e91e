"""Values in trees from strangers, of the type that they are read as or refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LARGEST_COUNT = 2**53
"""Of what is counted: more no float holds exactly, and no chart shows."""


def number(value: Any) -> float:
    """Return a number as a float; raises ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is no number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a number is too large") from error


def count(value: Any) -> int:
    """Return a whole number; raises ValueError where it is none, or of no sensible size."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST_COUNT:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def text(value: Any) -> str:
    """Return a text; raises ValueError where it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def file_name(value: Any) -> str:
    """Return the last part of a path; raises ValueError where it is no text that may be one."""
    name = Path(text(value)).name
    if not name or "\0" in name:
        raise ValueError(f"{value!r:.40} is no name of a folder")
    return name


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping; raises ValueError where it is none."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r:.40} is no mapping of fields")
    return dict(value)


def maybe(convert: Callable[[Any], T], value: Any) -> T | None:
    """Return `convert(value)`, and None for None."""
    return None if value is None else convert(value)
