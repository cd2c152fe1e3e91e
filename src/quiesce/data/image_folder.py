"""Images in one folder per class, like ImageNet: train/<class>/ and val/<class>/.

Errors name a damaged image. In a folder of at most `check_up_to` images, all are decoded before
training. In a larger folder, where this could take an hour, the error occurs when the image is
read.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, as_numbers, channel_statistics
from quiesce.errors import DataError, first_line
from quiesce.extras import require
from quiesce.files.atomic import in_home

MEAN = (0.485, 0.456, 0.406)  # of ImageNet
STD = (0.229, 0.224, 0.225)
_FEATURE = "the data set folder"


class DamagedImageError(DataError):
    """An image cannot be decoded."""

    def __init__(self, message: str) -> None:
        # torch raises the exception of a worker again with its traceback as the message
        super().__init__(message.rpartition("DamagedImageError: ")[2].strip())


class Decoder:
    """Reads images as RGB, and counts them for the error message about a damaged one."""

    def __init__(self) -> None:
        self.good = 0

    def __call__(self, path: str) -> Any:
        """Return the image at `path`, a PIL image.

        Raises:
            DamagedImageError: It cannot be decoded.
        """
        read = require("torchvision.datasets.folder", _FEATURE, "train").pil_loader
        try:
            image = read(path)
        except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ...
            raise DamagedImageError(
                f"{path} can not be decoded ({first_line(error)}); {self.good} images before it "
                "were read by this process. Replace or remove it"
            ) from error
        self.good += 1
        return image


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
    train = _pictures(root / "train", _transform(config, size, training=True))
    test = _pictures(root / "val", _transform(config, size, training=False))
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
        check(paths)
    return Images(
        train=train,
        test=test,
        classes=tuple(train.classes),
        input_shape=(3, size, size),
        **as_numbers(channel_statistics(config, MEAN, STD)),
    )


def check(paths: list[str]) -> None:
    """Decode every image.

    Raises:
        DataError: Some cannot be decoded; the message names the first one and their number.
    """

    def defect(path: str) -> str | None:
        try:
            Decoder()(path)
        except DamagedImageError as error:
            return f"{path} ({first_line(error.__cause__)})"
        return None

    with ThreadPoolExecutor() as pool:
        damaged = [found for found in pool.map(defect, paths) if found is not None]
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(paths)} images can not be decoded, first {damaged[0]}; the "
            f"other {len(paths) - len(damaged)} are good. Replace or remove the damaged ones"
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
    datasets = require("torchvision.datasets", _FEATURE, "train")
    try:
        return datasets.ImageFolder(folder, transform=transform, loader=Decoder())
    except OSError as error:
        raise DataError(
            f"{folder} must hold a folder of images for each class: {first_line(error)}"
        ) from error


def _transform(config: DataConfig, size: int, *, training: bool) -> Callable[[Any], Any]:
    v2 = require("torchvision.transforms.v2", _FEATURE, "train")
    mode = v2.InterpolationMode(config.interpolation)
    if training and config.augment == "standard":
        crop = [v2.RandomResizedCrop(size, interpolation=mode), v2.RandomHorizontalFlip()]
    else:
        crop = [v2.Resize(int(size / config.crop_share), interpolation=mode), v2.CenterCrop(size)]
    statistics = channel_statistics(config, MEAN, STD)
    return v2.Compose(
        [
            *crop,
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(statistics["mean"].tolist(), statistics["std"].tolist()),
        ]
    )
