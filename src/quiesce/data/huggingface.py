"""Data sets of the package `datasets`: saved by `save_to_disk`, parquet files, or on the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from quiesce.errors import DataError, first_line
from quiesce.extras import require
from quiesce.files.atomic import in_home

SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes beside splits, and beside the rows of one."""

TEST_SPLITS = ("validation", "val", "test")


def load(config: DataConfig, seed: int) -> Images:
    """Return the images of two splits.

    Args:
        config: Uses `folder` or `hub`, the names of splits and columns, `image_size`, `crop_share`,
            `interpolation`, `mean`, `std`, `augment` and `check_up_to`.

    Raises:
        DataError: There is no such data set, split or column; a split is empty; the labels are not
            classes; or an image cannot be decoded.
        MissingExtraError: datasets or torchvision is not installed.
    """
    hub = require("datasets", "the data set huggingface", "datasets")
    where, splits = _opened(hub, config)
    names = _chosen(config, splits, where)
    train, test = (Split(hub, splits[name], config, f"{where}, split {name}") for name in names)
    size = config.image_size or 224
    images = EncodedImages(train, transform_of(config, size, training=True), config.name)
    test_images = EncodedImages(test, transform_of(config, size, training=False), config.name)
    if train.names != test.names:
        raise DataError(f"{train.name} and {test.name} must have the same names of classes")
    classes = class_names(train, test, (train.name, test.name), train.names)
    check_encoded(config, images, test_images)
    return Images(
        train=images,
        test=test_images,
        classes=classes,
        input_shape=(3, size, size),
        **as_numbers(channel_statistics(config, MEAN, STD)),
    )


class Split:
    """The encoded images and the labels of a split.

    Args:
        hub: The module `datasets`.
        rows: A `datasets.Dataset`.
        config: Names of the columns.
        name: Name of the split in error messages.

    Raises:
        DataError: A column is missing or of another kind, or there is no row.
    """

    def __init__(self, hub: Any, rows: Any, config: DataConfig, name: str) -> None:
        self.name = name
        self._image = config.image_column or "image"
        label = config.label_column or "label"
        for field, column in (("image_column", self._image), ("label_column", label)):
            if column not in rows.column_names:
                there = ", ".join(rows.column_names)
                raise DataError(
                    f"{name} has no column {column!r}; set data.{field} to one of {there}"
                )
        if not len(rows):
            raise DataError(f"{name} holds no image")
        _refuse_other_labels(hub, rows.features[label], f"{name}: column {label!r}")
        self._rows = _encoded(hub, rows.select_columns([self._image]), self._image, name)
        column = rows.select_columns([label]).with_format("arrow")[:].column(label)
        if column.null_count:
            raise DataError(f"{name}: {column.null_count} labels in column {label!r} are missing")
        self.labels = column.to_numpy()
        self.names: tuple[str, ...] | None = (
            tuple(getattr(rows.features[label], "names", ())) or None
        )

    def read(self, index: int) -> bytes:
        """Return the encoded image of a row."""
        cell = self._rows[index][self._image]
        if not cell or (cell["bytes"] is None and cell["path"] is None):
            raise DamagedImageError(f"{self.where(index)} is missing")
        if cell["bytes"] is not None:
            return cell["bytes"]
        try:
            return Path(cell["path"]).read_bytes()
        except OSError as error:
            raise DamagedImageError(f"{self.where(index)}: {first_line(error)}") from error

    def where(self, index: int) -> str:
        """Return the name of a row in an error message."""
        return f"{self.name}: row {index}"


def _opened(hub: Any, config: DataConfig) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the data set in error messages, and its splits."""
    if (config.folder is None) == (config.hub is None):
        raise DataError(
            "huggingface needs data.folder (saved by save_to_disk, or parquet files) or data.hub "
            "(a name on the hub), and not both"
        )
    try:
        if config.hub is not None:
            return config.hub, hub.load_dataset(config.hub)
        folder = in_home(str(config.folder))
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; see data.folder")
        saved = any((folder / file).is_file() for file in SAVED)
        found = hub.load_from_disk(str(folder)) if saved else hub.load_dataset(str(folder))
    except DataError:
        raise
    except Exception as error:  # datasets, its readers and its hub client raise many kinds
        where = f"{config.hub} on the hub" if config.hub else config.folder
        raise DataError(f"{where} cannot be loaded: {first_line(error)}") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{folder} holds one split; save a DatasetDict of two, train and test")
    return str(folder), found


def _chosen(config: DataConfig, splits: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return the names of the splits to train and to test on."""
    test = config.test_split
    if test is None:
        there = [name for name in TEST_SPLITS if name in splits and name != config.train_split]
        if len(there) != 1:
            raise DataError(
                f"{where} has the splits {', '.join(splits)}; set data.test_split to one of them"
            )
        test = there[0]
    for field, name in (("train_split", config.train_split), ("test_split", test)):
        if name not in splits:
            raise DataError(
                f"{where} has no split {name!r}; set data.{field} to one of {', '.join(splits)}"
            )
    return config.train_split, test


def _refuse_other_labels(hub: Any, feature: Any, where: str) -> None:
    if isinstance(feature, hub.ClassLabel):
        return
    kind = getattr(feature, "dtype", type(feature).__name__)
    if not isinstance(feature, hub.Value) or not kind.startswith(("int", "uint")):
        raise DataError(
            f"{where} must hold labels, ClassLabel or whole numbers, and holds {kind}; "
            "Dataset.class_encode_column makes labels of texts"
        )


def _encoded(hub: Any, rows: Any, column: str, where: str) -> Any:
    """Return the rows with images as encoded bytes."""
    feature = rows.features[column]
    kind = getattr(feature, "dtype", type(feature).__name__)
    files = isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    if not isinstance(feature, hub.Image) and not files and kind != "binary":
        raise DataError(f"{where}: column {column!r} must hold images, and holds {kind}")
    return rows.cast_column(column, hub.Image(decode=False))
