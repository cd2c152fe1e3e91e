"""Images in one folder per class, like ImageNet: train/<class>/ and val/<class>/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, as_numbers, channel_statistics
from quiesce.data.pictures import MEAN, STD, Decoder, check, transform_of
from quiesce.errors import DataError, first_line
from quiesce.extras import require
from quiesce.files.atomic import in_home


def load(config: DataConfig, seed: int) -> Images:
    """Return the images in `config.folder`; the classes are the sorted names of the folders.

    Args:
        config: Uses `folder`, `image_size`, `crop_share`, `interpolation`, `mean`, `std`, `augment`
            and `check_up_to`.

    Raises:
        DataError: The folder is not given, missing or empty; it has only one class, or other
            classes in train than in val; or an image cannot be decoded.
        MissingExtraError: torchvision is not installed.
    """
    root = _root(config)
    size = config.image_size or 224
    train = _pictures(root / "train", transform_of(config, size, training=True))
    test = _pictures(root / "val", transform_of(config, size, training=False))
    if len(train.classes) < 2:
        raise DataError(
            f"{root / 'train'} has only one class ({train.classes[0]}); training needs two or more"
        )
    if different := sorted(set(train.classes) ^ set(test.classes)):
        raise DataError(
            f"train and val in {root} must have the same classes: {different[0]} is in only one"
        )
    paths = [path for path, _ in train.samples + test.samples]
    if len(paths) <= config.check_up_to:
        check(paths, Decoder("folder"), str)
    return Images(
        train=train,
        test=test,
        classes=tuple(train.classes),
        input_shape=(3, size, size),
        **as_numbers(channel_statistics(config, MEAN, STD)),
    )


def _root(config: DataConfig) -> Path:
    if config.folder is None:
        raise DataError("the data set folder needs data.folder, a folder with train/ and val/")
    root = in_home(config.folder)
    for folder in (root, root / "train", root / "val"):
        if not folder.is_dir():
            raise DataError(
                f"{folder} is not a folder; data.folder must hold train/<class>/ and val/<class>/"
            )
    return root


def _pictures(folder: Path, transform: Callable[[Any], Any]) -> Any:
    datasets = require("torchvision.datasets", "the data set folder", "train")
    try:
        return datasets.ImageFolder(folder, transform=transform, loader=Decoder("folder"))
    except OSError as error:
        raise DataError(
            f"{folder} must hold a folder of images for each class: {first_line(error)}"
        ) from error
