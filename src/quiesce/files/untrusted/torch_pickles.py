"""What torch.save wrote, looked through before torch.load builds it.

torch.load with weights_only runs no code, but believes what the file says of sizes: compressed
members unpack to any size, `bytearray(n)` is among its classes, and older versions read past the
end of a storage that claims more elements than it has.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

ZIP = b"PK\x03\x04"

LARGEST_PICKLE = 64 * 2**20
"""Bytes of the structure around the tensors; a thousand layers take less than one million."""

WIDTHS = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    "ComplexDoubleStorage": 16,
}
"""Bytes of an element, by the class of its storage; of all others 1."""

LEGACY_PICKLES = 5
"""In a file of torch before 1.6: a magic number, the protocol, the system, the content, keys."""


def refuse_absurd(path: Path) -> None:
    """Refuse a file of torch.save that would become larger in memory than it is on disk.

    Raises:
        OSError: The file can not be read.
        ValueError: It is damaged, or claims more than is there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            if file.read(len(ZIP)) == ZIP:
                _look_through_archive(zipfile.ZipFile(file), size)
            else:
                file.seek(0)
                with suppress(EOFError):  # a single pickle, of which torch will say what it holds
                    for _ in range(LEGACY_PICKLES):
                        _Survey(file, None).load()
        except Exception as error:  # what damaged zips and pickles raise is open
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _look_through_archive(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, which torch.save does not do")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its parts claim more bytes than it has")
    sizes = {member.filename.lower(): member.file_size for member in members}  # as torch finds them
    if len(sizes) < len(members):
        raise ValueError("two of its parts have the same name")
    for member in members:
        name = member.filename.lower()
        if name.endswith("data.pkl"):
            if member.file_size > LARGEST_PICKLE:
                raise ValueError(f"its {name} is larger than {LARGEST_PICKLE >> 20} MB")
            folder = name.removesuffix("data.pkl")
            _Survey(io.BytesIO(archive.read(member)), sizes, f"{folder}data/").load()


class _Nothing:
    """Stands for every object: takes whatever state it is given, and keeps none."""

    width = 1

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any) -> "_Nothing":
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """A list's, as pickles call it."""

    def extend(self, _: Any) -> None:
        """A list's, as pickles call it."""

    def add(self, _: Any) -> None:
        """A set's, as pickles call it."""


class _Survey(pickle._Unpickler):
    """Reads a pickle and builds nothing of it. The one in C makes room for whatever index it meets.

    Args:
        file: At the pickle's first byte.
        sizes: Bytes of each member of the archive; None in a file that is no archive.
        folder: What stands before the key of a storage in `sizes`.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: read
        for code, read in pickle._Unpickler.dispatch.items()  # pyright: ignore[reportAttributeAccessIssue]
        if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: BinaryIO, sizes: Mapping[str, int] | None, folder: str = "") -> None:
        super().__init__(file)
        self._sizes = sizes
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        """Give a stand-in; what may really be made is torch's decision."""
        if name == "bytearray":
            raise ValueError("it holds a bytearray, which can be of any size")
        return type(name, (_Nothing,), {"width": WIDTHS.get(name, 1)})

    def persistent_load(self, pid: Any) -> Any:
        """Check what a storage claims."""
        if self._sizes is not None:
            _, kind, key, _, count = pid
            if not 0 <= count * kind.width <= self._sizes[f"{self._folder}{key}".lower()]:
                raise ValueError(f"its storage {key} claims {count} elements and has fewer bytes")
        return _Nothing()
