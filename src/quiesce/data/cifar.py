"""CIFAR-10 and CIFAR-100 from the user's files: 32 × 32 colour images.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from typing import Any

import torch

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, TensorImages, as_numbers, channel_statistics
from quiesce.errors import DataError
from quiesce.extras import require
from quiesce.files.atomic import in_home

SIDE = 32  # pixels
_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_FILES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_MEAN = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
_STD = {"cifar10": (0.2470, 0.2435, 0.2616), "cifar100": (0.2673, 0.2564, 0.2762)}


def load(config: DataConfig, seed: int) -> Images:
    """Return the 50,000 training and 10,000 test images in `config.folder`.

    torchvision checks the published checksums of the files.

    Args:
        config: `name` is cifar10 or cifar100; `image_size` is 32 or None.

    Raises:
        DataError: `config.folder` is missing, or does not contain the complete files.
        MissingExtraError: torchvision is not installed.
        ValueError: `image_size` is not 32.
    """
    if config.image_size not in (None, SIDE):
        raise ValueError(f"`image_size` must be 32 for {config.name}, got {config.image_size}")
    if config.folder is None:
        raise DataError(f"{config.name} needs data.folder, the folder of {_FILES[config.name]}")
    datasets = require("torchvision.datasets", f"the data set {config.name}", "train")
    factory = getattr(datasets, _NAMES[config.name])
    folder = in_home(config.folder)
    try:
        train, test = (factory(folder, train=half) for half in (True, False))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{folder} does not hold {config.name}: {_FILES[config.name]} is missing or damaged; "
            "unpack the published archive there"
        ) from error

    statistics = channel_statistics(config, _MEAN[config.name], _STD[config.name])
    v2 = require("torchvision.transforms.v2", f"the data set {config.name}", "train")
    standard = (v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip())
    augment = standard if config.augment == "standard" else ()
    return Images(
        train=_tensors(train, augment=augment, **statistics),
        test=_tensors(test, **statistics),
        classes=tuple(train.classes),
        input_shape=(3, SIDE, SIDE),
        **as_numbers(statistics),
    )


def _tensors(pictures: Any, **kwargs: Any) -> TensorImages:
    images = torch.from_numpy(pictures.data).permute(0, 3, 1, 2).contiguous()
    return TensorImages(images, torch.tensor(pictures.targets), **kwargs)
