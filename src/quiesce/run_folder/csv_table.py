"""CSV files that grow during a run. Each row is written to the file immediately."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from quiesce.errors import CheckpointError
from quiesce.files.atomic import full_disk_named, sync


class CsvTable:
    """A CSV file with a header, to which rows are appended."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._names = list(names)
        self._started = False

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """Append rows with one value per column; None becomes an empty cell."""
        if not rows:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._started:
            writer.writerow(self._names)
        writer.writerows(rows)
        data = text.getvalue().encode()
        with (
            full_disk_named(self._path, len(data)),
            self._path.open("ab" if self._started else "wb") as file,
        ):
            file.write(data)
            self._started = True

    def go_on_before(self, step: int) -> None:
        """Continue the file, if there is one, and drop the rows from `step` on.

        The first column is the step. A last line without its end is dropped too.

        Raises:
            CheckpointError: The file has other columns.
        """
        if not self._path.exists():
            return
        kept, head = 0, (",".join(self._names) + "\n").encode()
        with self._path.open("rb") as file:
            for line in file:
                if kept == 0 and line != head:
                    raise CheckpointError(
                        f"{self._path} has other columns than this version writes: "
                        f"{line.decode(errors='replace').strip()}; record in another folder"
                    )
                if not line.endswith(b"\n") or (kept and int(line.split(b",", 1)[0]) >= step):
                    break
                kept += len(line)
        self.go_on(kept)

    def size(self) -> int:
        """Flush the file to disk and return its size in bytes."""
        if not self._started:
            return 0
        sync(self._path)
        return self._path.stat().st_size

    def go_on(self, size: int) -> None:
        """Continue after the first `size` bytes of the file, and drop later rows.

        Raises:
            CheckpointError: The file is shorter than `size`.
        """
        there = self._path.stat().st_size if self._path.exists() else 0
        if not 0 <= size <= there:
            raise CheckpointError(
                f"{self._path} has {there} bytes and had {size} when the checkpoint was written; "
                "restore the file, or train again"
            )
        self._started = size > 0
        if self._started:
            os.truncate(self._path, size)
        else:
            self._path.unlink(missing_ok=True)
