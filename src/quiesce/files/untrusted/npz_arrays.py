"""NPZ files whose arrays are as large as what is there, and hold numbers or text."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.files.untrusted.limits import MB

LARGEST_FILE = 32 * MB
"""Bytes of an NPZ file."""

LARGEST_CONTENT = 256 * MB
"""Bytes of all its arrays together: a compressed kilobyte can hold a megabyte of zeros."""

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file, by name.

    Raises:
        OSError: The file can not be read.
        ValueError: It is damaged, too large, holds pickles, or an array claims what is not there.
    """
    if not path.is_file():
        raise ValueError("it is no regular file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE // MB} MB")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive)
        except Exception as error:  # of zip, of its decoders, of numpy: what they raise is open
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _arrays(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if sum(member.file_size for member in members) > LARGEST_CONTENT:
        raise ValueError(f"its arrays have more than {LARGEST_CONTENT // MB} MB")
    found = {}
    for member in members:
        with archive.open(member) as stream:
            _refuse_absurd(stream, member.file_size)
        with archive.open(member) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        found[member.filename.removesuffix(".npy")] = array
    return found


def _refuse_absurd(stream: Any, size: int) -> None:
    """Look at the header alone: numpy makes room for all that it claims."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"an array has the format {version}")
    shape, _, dtype = _HEADERS[version](stream)
    if min(shape, default=0) < 0 or math.prod(shape) * max(1, dtype.itemsize) > size:
        raise ValueError(f"an array claims the shape {shape}, and the file has no room for it")
