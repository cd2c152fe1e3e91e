"""Reads files up to a largest size, and refuses folders with symbolic links."""

from pathlib import Path

MB = 2**20

LARGEST_TREE = 16 * MB
"""Bytes of a JSON file; in memory it takes up to 25 times as much."""


def read_bytes(path: Path, largest: int) -> bytes:
    """Return the content of a file.

    Args:
        path: A regular file. A device may have no end, and a pipe may wait forever.

    Raises:
        OSError: The file is missing, or cannot be read.
        ValueError: It is not a regular file, or it is larger.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(largest + 1)  # the size that the system reports may be wrong
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest / MB:.3g} MB")
    return content


def read_text(path: Path, largest: int = LARGEST_TREE) -> str:
    """Return the UTF-8 text of a file; raises what `read_bytes` raises."""
    return read_bytes(path, largest).decode("utf-8")


def refuse_links(folder: Path) -> None:
    """Raise a ValueError if a folder has symbolic links: writing there could change other files."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            inside = path.relative_to(folder)
            raise ValueError(f"{inside} is a symbolic link, and its target would be changed")
