"""Writes files atomically, and reports full disks."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quiesce.errors import DiskFullError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers for a full disk, and for the quota of a user."""

_BESIDE = re.compile(r"\..+\.\d+")


def in_home(path: str | Path) -> Path:
    """Return a path with `~` expanded, or unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_beside(path: Path, write: Callable[[Path], object], needed: int | None = None) -> None:
    """Call `write` with a temporary path in the same folder, then rename that file to `path`.

    The file and its name are on the disk when this function returns. After a power failure there
    is either the old file or the new one.

    Args:
        write: Gets the temporary path.
        needed: Bytes that it writes, for an error message, or None.

    Raises:
        DiskFullError: There is no space; the file at `path` did not change.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # a link would be followed
    try:
        with full_disk_named(path, needed):
            write(beside)
            sync(beside)
            beside.replace(path)
            sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_folder_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with the path of a new folder beside `path`, then rename that folder to `path`.

    An existing file or folder at `path` is removed when the new one is complete.

    Args:
        path: The folder to write.
        write: Gets the temporary path, at which nothing exists.

    Raises:
        DiskFullError: There is no space; what is at `path` did not change.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    remove(beside)
    try:
        with full_disk_named(path):
            write(beside)
            sync(beside)
            remove(path)
            beside.rename(path)
            sync(path.parent)
    finally:
        remove(beside)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed in `write_beside`."""
    for path in folder.glob(".*"):
        if _BESIDE.fullmatch(path.name) and path.is_file():
            path.unlink()


@contextmanager
def full_disk_named(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's error for a full disk into one that names the file and the space.

    Args:
        path: What the block writes. For a folder, the error names the file in it.
        needed: Bytes that the block writes, or None if unknown.

    Raises:
        DiskFullError: There is no space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        file = Path(error.filename) if path.is_dir() and error.filename else path
        space = "" if needed is None else f"{_readable(needed)} are needed, "
        space += f"{_readable(shutil.disk_usage(path.parent).free)} are free"
        raise DiskFullError(
            f"{file} cannot be written: {os.strerror(error.errno)} ({space}); make space"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened on Windows
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _readable(size: int) -> str:
    return f"{size} bytes" if size < 100_000 else f"{size / 1e6:.1f} MB"
