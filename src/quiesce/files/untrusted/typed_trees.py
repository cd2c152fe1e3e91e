"""Trees of plain values, from JSON or YAML, as typed objects."""

from typing import Any, TypeVar

from quiesce.extras import require

T = TypeVar("T")


def typed(tree: Any, kind: type[T]) -> T:
    """Return `tree` as an object of `kind`: a struct, a dataclass, or a plain type.

    Keys that `kind` does not have are ignored.

    Raises:
        ValueError: A field is missing, or its value has another type; the message names the field.
        MissingExtraError: msgspec is not installed.
    """
    msgspec = require("msgspec", "reading typed files", "train")
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$.", "`")) from error
