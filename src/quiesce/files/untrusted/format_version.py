"""The version of a file's format: one sentence for all files that a later quiesce has made."""

from typing import Any

from quiesce.errors import RecipeError


def refuse_newer(what: str, found: Any, known: int) -> None:
    """Refuse a file whose format a later quiesce has made.

    Raises:
        RecipeError: The version is newer than `known`.
    """
    if isinstance(found, int) and found > known:
        raise RecipeError(
            f"{what} is of a newer quiesce: its format has version {found}, this one reads up to "
            f"{known}; update quiesce"
        )
