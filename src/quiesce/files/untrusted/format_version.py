"""The version of a file's format."""

from typing import Any

from quiesce.errors import RecipeError


def refuse_newer(what: str, found: Any, known: int) -> None:
    """Raise a RecipeError for a format version that is newer than `known`."""
    if isinstance(found, int) and found > known:
        raise RecipeError(
            f"{what} was written by a newer version of quiesce: its format has version {found}, "
            f"and this one reads versions up to {known}; update quiesce"
        )
