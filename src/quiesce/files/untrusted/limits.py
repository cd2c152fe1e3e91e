"""The bytes of a file, of which there may not be too many; and folders without links."""

from pathlib import Path

MB = 2**20

LARGEST_TREE = 16 * MB
"""Bytes of a JSON file: as a tree in memory it takes up to 25 times as much."""


def read_bytes(path: Path, largest: int) -> bytes:
    """Return what a file holds.

    Args:
        path: The file. A device, which has no end, and a pipe, which waits for ever, are none.
        largest: Bytes it may have.

    Raises:
        OSError: It is not there, or can not be read.
        ValueError: It is no regular file, or is larger.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        content = file.read(largest + 1)  # not the size that it is said to have
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest / MB:.3g} MB")
    return content


def read_text(path: Path, largest: int = LARGEST_TREE) -> str:
    """Return the UTF-8 text of a file; raises what `read_bytes` raises."""
    return read_bytes(path, largest).decode("utf-8")


def refuse_links(folder: Path) -> None:
    """Refuse to write into a folder in which a name stands for a place elsewhere.

    Raises:
        ValueError: There is a symbolic link in it, at any depth.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            inside = path.relative_to(folder)
            raise ValueError(f"{inside} is a symbolic link, and what it leads to would be changed")
