"""Reads the tables and arrays of a run folder; every error is one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.files.untrusted import csv_rows, npz_arrays
from quiesce.run_folder.reading import reading


def read_table(path: Path, text: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV file, with None in empty cells; no rows if there is no file.

    A last line without its end is left out, because it is still being written.

    Args:
        path: The file; its first line names the columns.
        text: Columns that are not numbers.

    Raises:
        RecipeError: A row does not fit the first line, or a cell is not a number.
    """
    if path.exists():
        with reading(path):
            for row in csv_rows.read_rows(path):
                yield {name: _cell(name, value, text) for name, value in row.items()}


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an NPZ file, or None if there is no file; pickles are refused.

    Raises:
        RecipeError: The file is damaged.
    """
    if not path.exists():
        return None
    with reading(path):
        return npz_arrays.read_arrays(path)


def _cell(name: str, value: str, text: tuple[str, ...]) -> float | str | None:
    if name in text:
        return value
    return float(value) if value else None
