"""Where the images of a tar file are, and which labels they have.

Reading the index of a local file reads only its headers and labels; that of a remote file reads all
of it. So indexes are kept in the cache folder, under the file's name, size and time of change.
"""

import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

import numpy

from quiesce.errors import DataError, first_line
from quiesce.files.atomic import write_beside
from quiesce.files.cache import cache_folder

IMAGES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"
BLOCK = 512  # bytes
_PARTS = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)")
_STAMPS = ("size", "mtime", "ETag", "LastModified", "last_modified", "md5Hash")


@dataclass(frozen=True, kw_only=True)
class Endings:
    """Which members of a sample hold the image and the label."""

    images: tuple[str, ...] = IMAGES
    label: str = LABEL


def read_index(url: str, endings: Endings) -> numpy.ndarray:
    """Return the index of a tar file: int64 of shape (images, 3), rows of begin, size and label.

    Consecutive members whose names differ only after the first point of the file name are a sample,
    as in the package webdataset.

    Args:
        url: A path, or a URL of a file system that fsspec knows.
        endings: The parts of a sample.

    Raises:
        DataError: The file cannot be read, is cut off or is not a tar file; a sample has no image
            or no label, or its label is not a whole number.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
        info = files.info(path)
        stamp = [url, *(str(info.get(each)) for each in _STAMPS), *endings.images, endings.label]
        kept = cache_folder() / "shards" / f"{sha256(repr(stamp).encode()).hexdigest()[:32]}.npy"
        with suppress(OSError, ValueError, EOFError):
            return numpy.load(kept, allow_pickle=False)
        is_local = isinstance(files, fsspec.get_filesystem_class("file"))
        with files.open(path, "rb") as opened:
            rows = list(_rows(url, opened, info["size"], endings, seekable=is_local))
    except (DataError, KeyboardInterrupt):
        raise
    except Exception as error:  # file systems raise many kinds
        raise DataError(f"{url} cannot be read: {first_line(error)}") from error
    index = numpy.array(rows, dtype=numpy.int64).reshape(-1, 3)
    with suppress(OSError):  # no cache, then
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_beside(kept, lambda beside: _save(beside, index))
    return index


def _save(path: Any, index: numpy.ndarray) -> None:
    with path.open("wb") as opened:  # numpy.save would append .npy to a name
        numpy.save(opened, index)


def _rows(
    url: str, opened: Any, size: int | None, endings: Endings, *, seekable: bool
) -> Iterator[tuple[int, int, int]]:
    """Yield begin, size and label of each image."""
    end = count = 0
    try:
        with tarfile.open(fileobj=opened, mode="r:" if seekable else "r|") as tar:
            for key, members in groupby(_members(tar), lambda member: member[0]):
                found: dict[str, tuple[int, int]] = {}
                label = None
                for _, ending, member in members:
                    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                    found[ending] = member.offset_data, member.size
                    if ending == endings.label:
                        label = _label(tar, member, url)
                image = next((found[each] for each in endings.images if each in found), None)
                if image is None or label is None:
                    raise _incomplete(url, key, list(found), endings, image)
                yield *image, label
                count += 1
    except tarfile.TarError as error:
        what = "is cut off" if count else "is not a tar file"
        raise DataError(
            f"{url} {what} after {count} samples ({first_line(error)}); replace it"
        ) from error
    if size is not None and size < end + BLOCK:  # no block of zeros follows
        raise DataError(f"{url} is cut off after {count} samples: it has no end; replace it")


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield key, ending and header of each file."""
    for member in tar:
        if member.isfile() and (parts := _PARTS.fullmatch(member.name)):
            yield parts[1], parts[2].lower(), member


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, url: str) -> int:
    opened = tar.extractfile(member)
    text = b"" if opened is None else opened.read(32)
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"{url}: {member.name} must hold a label, a whole number, and holds {text!r:.40}"
        ) from None


def _incomplete(url: str, key: str, there: list[str], endings: Endings, image: object) -> DataError:
    field, wanted = ("label_column", endings.label)
    if image is None:
        field, wanted = ("image_column", " or ".join(endings.images))
    return DataError(
        f"{url}: sample {key} has no .{wanted}, only .{', .'.join(there)}; set data.{field}"
    )
