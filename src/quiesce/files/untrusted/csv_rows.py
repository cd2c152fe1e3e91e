"""CSV files row by row, so that memory holds what the reader keeps and no more."""

import csv
from collections.abc import Iterator
from pathlib import Path

from quiesce.files.untrusted.limits import MB

LARGEST_TABLE = 64 * MB
"""Characters of a CSV file."""

LONGEST_LINE = 2**16
"""Characters of a line."""

MOST_LINES = 1_000_000
"""Lines of a CSV file."""


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, by the names in its first line.

    A last line without its end is left out: somebody is writing it, or was stopped.

    Raises:
        OSError: The file can not be read.
        ValueError: A row has more or fewer cells than the first line, or the file is too large.
    """
    try:
        for row in csv.DictReader(_whole_lines(path), strict=True):
            if None in row or None in row.values():
                raise ValueError("a row has more or fewer cells than the first line")
            yield row
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _whole_lines(path: Path) -> Iterator[str]:
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    size = 0
    with path.open(encoding="utf-8", newline="\n") as file:
        for number in range(MOST_LINES + 1):
            line = file.readline(LONGEST_LINE + 1)
            size += len(line)
            if len(line) > LONGEST_LINE or size > LARGEST_TABLE or number == MOST_LINES:
                raise ValueError(
                    f"it has a line of more than {LONGEST_LINE:,} characters, more than "
                    f"{MOST_LINES:,} lines or more than {LARGEST_TABLE // MB} MB"
                )
            if not line.endswith("\n"):
                return
            yield line
