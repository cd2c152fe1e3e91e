"""Reads the arrays of NPZ files: numbers and text, no pickled objects."""

import io
from pathlib import Path

import numpy as np

from quiesce.errors import first_line
from quiesce.files.untrusted.limits import MB, read_bytes

LARGEST_FILE = 32 * MB
"""Bytes of an NPZ file."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file by name; raise a ValueError for pickles or damage."""
    content = io.BytesIO(read_bytes(path, LARGEST_FILE))
    try:
        with np.load(content, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # zipfile, its decoders and numpy raise many kinds
        raise ValueError(first_line(error)) from error
