"""Trees of plain values, from JSON or YAML, as typed objects."""

from typing import Any, TypeVar

from quiesce.extras import require

T = TypeVar("T")


def typed(tree: Any, kind: type[T], *, lax: bool = False) -> T:
    """Return `tree` as an object of `kind`: a struct, a dataclass, or a plain type.

    Args:
        tree: Nested dicts and lists; keys that `kind` does not have are ignored.
        lax: Whether text may stand for a number, as in "1e-3".

    Raises:
        ValueError: A field is missing, or its value has another type; the message names the field.
        MissingExtraError: msgspec is not installed.
    """
    msgspec = require("msgspec", "reading typed files", "train")
    try:
        return msgspec.convert(tree, kind, strict=not lax)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$.", "`")) from error


def with_lists(tree: Any) -> Any:
    """Return nested dicts and lists with lists in place of tuples, as YAML and JSON have them."""
    if isinstance(tree, dict):
        return {key: with_lists(value) for key, value in tree.items()}
    return [with_lists(value) for value in tree] if isinstance(tree, list | tuple) else tree
