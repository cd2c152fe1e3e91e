"""The files of a run folder, read without torch; what is wrong with one is told in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import QuiesceError, RecipeError
from quiesce.files.untrusted import csv_rows, npz_arrays, yaml_and_json
from quiesce.files.untrusted.format_version import refuse_newer

VERSION = 1
"""Newest version of the files that is understood."""

Rows = Iterator[dict[str, Any]]
"""Numbers, None in empty cells, and texts where asked for."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make one line of whatever goes wrong while the content of `path` is looked at.

    Raises:
        RecipeError: The content is not what such a file holds.
    """
    try:
        yield
    except (QuiesceError, OSError):
        raise
    except KeyError as error:
        raise damaged(path, f"it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> RecipeError:
    """Return the error that says so."""
    reason = " ".join(reason.split())
    return RecipeError(f"{path} is damaged: {reason}; write it again, or take it away")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the tree in a JSON file; None where there is no such file.

    Raises:
        RecipeError: It is damaged, or newer than this quiesce.
    """
    return _tree(path, yaml_and_json.read_json)


def read_recipe(path: Path) -> dict[str, Any] | None:
    """Return the tree of a recipe; None where there is no such file.

    Raises:
        RecipeError: It is damaged, or newer than this quiesce.
    """
    return _tree(path, yaml_and_json.read_yaml)


def read_table(path: Path, text: tuple[str, ...] = ()) -> Rows:
    """Yield the rows of a CSV file, with None in empty cells; no rows where there is no file.

    A last line without its end is left out: somebody is writing it, or was stopped.

    Args:
        path: The file; its first line names the columns.
        text: Columns that are not numbers.

    Raises:
        RecipeError: A row does not fit the first line, or a number is none.
    """
    if path.exists():
        with reading(path):
            for row in csv_rows.read_rows(path):
                yield {name: _cell(name, value, text) for name, value in row.items()}


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an NPZ file, which may hold no pickles; None where there is no file.

    Raises:
        RecipeError: It is damaged.
    """
    if not path.exists():
        return None
    with reading(path):
        return npz_arrays.read_arrays(path)


def _tree(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with reading(path):
        tree = read(path)
        version = tree["version"]
        if not isinstance(version, int):
            raise ValueError(f"its version is {version!r}")
    refuse_newer(str(path), version, VERSION)
    return tree


def _cell(name: str, value: str, text: tuple[str, ...]) -> float | str | None:
    if name in text:
        return value
    return float(value) if value else None
