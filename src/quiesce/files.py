"""Files that are whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path


def in_home(path: str | Path) -> Path:
    """Return a path with the home folder for its `~`; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # in a folder from strangers it may be a link to elsewhere
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
