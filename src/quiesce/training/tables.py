"""CSV files that grow while a run goes on: whatever ends the run, they hold it up to there."""

import csv
from collections.abc import Sequence
from pathlib import Path


class CsvTable:
    """A file with a line of names, to which rows are added.

    Args:
        path: Made, with its names, at the first row; nothing without rows.
        names: Of the columns.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._names = list(names)
        self._started = False

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """Write rows of one value a column; None is left empty."""
        if not rows:
            return
        with self._path.open("a" if self._started else "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not self._started:
                writer.writerow(self._names)
            writer.writerows(rows)
        self._started = True
