"""Files that are whole or not there, and disks that are full."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quiesce.errors import DiskFullError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when there is no space, on the disk or for this user."""

_BESIDE = re.compile(r"\..+\.\d+")


def in_home(path: str | Path) -> Path:
    """Return a path with the home folder for its `~`; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_beside(path: Path, write: Callable[[Path], object], needed: int | None = None) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`.

    Both are on the disk when this returns: a machine that loses its power has the old file or the
    new one.

    Args:
        path: The file.
        write: Gets the path of the file to fill.
        needed: Bytes that it writes, for the message of an error, or None.

    Raises:
        DiskFullError: There is no space; what was at `path` is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # in a folder from strangers it may be a link to elsewhere
    try:
        with full_disk_named(path, needed):
            write(beside)
            sync(beside)
            beside.replace(path)
            sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed in `write_beside` have left in a folder."""
    for path in folder.glob(".*"):
        if _BESIDE.fullmatch(path.name) and path.is_file():
            path.unlink()


@contextmanager
def full_disk_named(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's word for a full disk into an error that names the file and the space.

    Args:
        path: What is written in the block; where it is a folder, the file that the system names
            in it goes before.
        needed: Bytes that this takes, or None where it is not known.

    Raises:
        DiskFullError: The block met a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        file = Path(error.filename) if path.is_dir() and error.filename else path
        raise DiskFullError(
            f"{file} can not be written: {os.strerror(error.errno)} "
            f"({_space(path.parent, needed)}); make space"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # there a folder can not be opened, nor need be
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _space(folder: Path, needed: int | None) -> str:
    free = f"{_readable(shutil.disk_usage(folder).free)} are free"
    return free if needed is None else f"{_readable(needed)} are needed, {free}"


def _readable(size: int) -> str:
    return f"{size} bytes" if size < 100_000 else f"{size / 1e6:.1f} MB"
