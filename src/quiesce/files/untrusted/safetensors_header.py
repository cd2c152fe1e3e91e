"""The header of a safetensors file: JSON, of which the file says first how long it is."""

from pathlib import Path

from quiesce.files.untrusted.limits import MB

LONGEST_HEADER = 16 * MB
"""Bytes; a thousand layers take one million. The package would take a hundred million."""


def refuse_long_header(path: Path) -> None:
    """Refuse a safetensors file whose header is too long to be built.

    Raises:
        OSError: The file can not be read.
        ValueError: Its header claims to be longer.
    """
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > LONGEST_HEADER:
        raise ValueError(f"its header claims more than {LONGEST_HEADER // MB} MB")
