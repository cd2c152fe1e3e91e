"""Whether runs classify the same images; else their accuracies can not stand side by side."""

from collections.abc import Mapping
from typing import Any

from quiesce.files.atomic import in_home

SAME_DATA = (
    "name",
    "folder",
    "image_size",
    "classes",
    "train_images",
    "test_images",
    "channels",
)
"""Fields of `data` in which compared runs must agree: they say which images are classified."""


def data_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return these fields of a recipe; folders that are one have one spelling."""
    data = recipe.get("data") or {}
    found = {field: data.get(field) for field in SAME_DATA}
    if found["folder"] is not None:
        found["folder"] = str(in_home(found["folder"]).resolve())
    return found


def differing_field(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first field in which two results of `data_of` differ; None where they agree."""
    return next((field for field in SAME_DATA if one[field] != other[field]), None)
