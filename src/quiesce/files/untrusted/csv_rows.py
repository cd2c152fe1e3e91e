"""Reads the rows of CSV files."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from quiesce.files.untrusted.limits import MB, read_text

LARGEST_TABLE = 64 * MB
"""Bytes of a CSV file."""


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file as dictionaries, with the names in its first line as keys.

    A last line that does not end is left out: it is being written, or its writer was stopped.

    Raises:
        OSError: The file cannot be read.
        ValueError: A row has more or fewer cells than the first line, or the file is too large.
    """
    text = read_text(path, LARGEST_TABLE)
    try:
        lines = io.StringIO(text[: text.rfind("\n") + 1], newline="")
        for row in csv.DictReader(lines, strict=True):
            if None in row or None in row.values():
                raise ValueError("a row has more or fewer cells than the first line")
            yield row
    except csv.Error as error:
        raise ValueError(str(error)) from error
