"""Checks whether runs use the same test images; otherwise their accuracies are not comparable."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from quiesce.files.atomic import in_home
from quiesce.run_folder.contents import KeptData


def data_of(data: KeptData) -> dict[str, Any]:
    """Return the fields that must be equal in compared runs; the folder is an absolute path."""
    found = asdict(data)
    if data.folder is not None:
        found["folder"] = str(in_home(data.folder).resolve())
    return found


def differing_field(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first field in which two results of `data_of` differ, or None if they agree."""
    return next((field for field in one if one[field] != other[field]), None)
