"""CSV files that grow while a run goes on: whatever ends the run, they hold it up to there."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quiesce.errors import CheckpointError, DiskFullError
from quiesce.files.atomic import full_disk_named, sync
from quiesce.parallel.processes import are_many


class CsvTable:
    """A file with a line of names, to which rows are added.

    Args:
        path: Made, with its names, at the first row; nothing without rows.
        names: Of the columns.

    Attributes:
        failure: Of several processes one writes, and the others would wait for one that stops. So
            an error is kept here, and nothing is written any more, until all ask for it.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._names = list(names)
        self._started = False
        self.failure: Exception | None = None

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """Write rows of one value a column; None is left empty.

        Raises:
            DiskFullError: There is no space for them, and there is one process.
        """
        if not rows or self.failure is not None:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._started:
            writer.writerow(self._names)
        writer.writerows(rows)
        data = text.getvalue().encode()
        with (
            self._kept(),
            full_disk_named(self._path, len(data)),
            self._path.open("ab" if self._started else "wb") as file,
        ):
            file.write(data)
            self._started = True

    def size(self) -> int:
        """Return the bytes written so far, which are on the disk then."""
        if not self._started:
            return 0
        with self._kept():
            sync(self._path)
        return self._path.stat().st_size

    def go_on(self, size: int) -> None:
        """Add to the first `size` bytes of the file; rows behind them are dropped.

        Raises:
            CheckpointError: The file is shorter.
        """
        there = self._path.stat().st_size if self._path.exists() else 0
        if there < size:
            raise CheckpointError(
                f"{self._path} has {there} bytes and had {size} when the checkpoint was written; "
                "put it back as it was, or train again"
            )
        self._started = size > 0
        if self._started:
            os.truncate(self._path, size)
        else:
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except (DiskFullError, OSError) as error:
            if not are_many():
                raise
            self.failure = error
