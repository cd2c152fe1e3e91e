"""Tar files of images and labels, as the package webdataset writes them, local or remote.

Images are read in pieces of some megabytes, so that remote files and slow disks are read fast, and
only where they are needed: a process that resumes within an epoch reads nothing again.
"""

from collections.abc import Sequence
from typing import Any

import numpy

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, as_numbers, channel_statistics
from quiesce.data.pictures import (
    MEAN,
    STD,
    DamagedImageError,
    EncodedImages,
    check_encoded,
    class_names,
    transform_of,
)
from quiesce.data.piece_order import WINDOW, PieceOrder
from quiesce.data.tar_index import IMAGES, LABEL, Endings, read_index
from quiesce.errors import DataError, first_line
from quiesce.extras import require
from quiesce.files.atomic import in_home

PIECE_BYTES = 8 * 2**20
"""Length at which a piece ends."""


def load(config: DataConfig, seed: int) -> Images:
    """Return the images of the training shards and of the test shards.

    Args:
        config: Uses `train_shards`, `test_shards`, `image_column`, `label_column`, `image_size`,
            `crop_share`, `interpolation`, `mean`, `std`, `augment`, `check_up_to`, `batch_size` and
            `workers`.

    Raises:
        DataError: A file is missing, cut off, or has samples without image or label; the labels are
            not classes; or an image cannot be decoded.
        MissingExtraError: webdataset or torchvision is not installed.
    """
    train, test = (Shards(config, field) for field in ("train_shards", "test_shards"))
    classes = class_names(train, test, ("data.train_shards", "data.test_shards"))
    size = config.image_size or 224
    images = EncodedImages(train, transform_of(config, size, training=True), config.name)
    test_images = EncodedImages(test, transform_of(config, size, training=False), config.name)
    check_encoded(config, images, test_images)
    return Images(
        train=images,
        test=test_images,
        classes=classes,
        input_shape=(3, size, size),
        **as_numbers(channel_statistics(config, MEAN, STD)),
        order=PieceOrder(
            name="data.train_shards",
            files=len(train.urls),
            sizes=numpy.diff(train.begins, append=len(train.labels)).tolist(),
            batch_size=config.batch_size,
            workers=config.workers,
        ),
    )


class Shards:
    """The encoded images and the labels of some tar files.

    Args:
        config: Names of the files and of their members.
        field: The field of `config` that names the files.

    Attributes:
        urls: The files.
        labels: int64 of shape (images,).
        begins: Index of the first image of each piece: int64 of shape (pieces,).

    Raises:
        DataError: See `load`.
    """

    def __init__(self, config: DataConfig, field: str) -> None:
        self.urls = expanded(getattr(config, field), f"data.{field}")
        endings = Endings(
            images=(config.image_column,) if config.image_column else IMAGES,
            label=config.label_column or LABEL,
        )
        indexes = [read_index(url, endings) for url in self.urls]
        if not sum(map(len, indexes)):
            raise DataError(f"data.{field}: {self.urls[0]} holds no image")
        self._files = numpy.repeat(numpy.arange(len(indexes)), [len(each) for each in indexes])
        self._offsets, self._sizes, self.labels = numpy.concatenate(indexes).T
        self.begins = numpy.concatenate(
            [first + _begins(each) for first, each in zip(_firsts(indexes), indexes, strict=True)]
        )
        self._kept: dict[int, bytes] = {}

    def read(self, index: int) -> bytes:
        """Return an encoded image; the pieces of the last images are kept in memory."""
        piece = int(numpy.searchsorted(self.begins, index, side="right")) - 1
        content = self._kept.get(piece)
        if content is None:
            content = self._read_piece(piece, index)
            while len(self._kept) >= WINDOW:
                self._kept.pop(next(iter(self._kept)), None)
            self._kept[piece] = content
        begin = int(self._offsets[index] - self._offsets[self.begins[piece]])
        return content[begin : begin + int(self._sizes[index])]

    def where(self, index: int) -> str:
        """Return file and place of an image in an error message."""
        url = self.urls[self._files[index]]
        place = index - int(numpy.searchsorted(self._files, self._files[index]))
        return f"{url}: sample {place}"

    def _read_piece(self, piece: int, index: int) -> bytes:
        import fsspec

        begin = int(self.begins[piece])
        end = int(self.begins[piece + 1]) if piece + 1 < len(self.begins) else len(self.labels)
        try:
            # looked up each time: a file system of another process cannot be used
            files, path = fsspec.core.url_to_fs(self.urls[self._files[begin]])
            stop = int(self._offsets[end - 1] + self._sizes[end - 1])
            content = files.cat_file(path, start=int(self._offsets[begin]), end=stop)
        except Exception as error:  # file systems raise many kinds
            raise DamagedImageError(f"{self.where(index)}: {first_line(error)}") from error
        if len(content) != (wanted := stop - int(self._offsets[begin])):
            raise DamagedImageError(
                f"{self.where(index)}: got {len(content)} bytes and not {wanted}: the file has "
                "changed, or its server does not serve parts of files"
            )
        return content


def expanded(shards: str | None, field: str) -> list[str]:
    """Return the files of a value of `train_shards`.

    Raises:
        DataError: It is empty, matches no file, or would run a command.
    """
    if shards is None:
        raise DataError(f'webdataset needs {field}, such as "train-{{000..146}}.tar", or a URL')
    notation = require("webdataset.shardlists", "the data set webdataset", "webdataset")
    urls: list[str] = []
    for url in notation.expand_urls(shards):
        if url.startswith("pipe:"):
            raise DataError(f"{field}: {url} would run a command; give a path or a URL")
        urls += _listed(url) if "*" in url else [url if "://" in url else str(in_home(url))]
    if not urls:
        raise DataError(f"{field}: no file matches {shards}")
    return urls


def _listed(pattern: str) -> list[str]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(pattern if "://" in pattern else str(in_home(pattern)))
        return [
            files.unstrip_protocol(found) if "://" in pattern else str(found)
            for found in sorted(files.glob(path))
        ]
    except Exception as error:  # file systems raise many kinds
        raise DataError(f"{pattern} cannot be listed: {first_line(error)}") from error


def _firsts(indexes: Sequence[Any]) -> list[int]:
    """Return the number of images before each file."""
    return [0, *numpy.cumsum([len(each) for each in indexes[:-1]], dtype=int).tolist()]


def _begins(index: Any) -> numpy.ndarray:
    """Return the first image of each piece of a file."""
    if not len(index):
        return numpy.zeros(0, dtype=int)
    return numpy.unique((index[:, 0] - index[0, 0]) // PIECE_BYTES, return_index=True)[1]
