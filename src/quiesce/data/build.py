"""Creates the data loaders that a `DataConfig` describes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from quiesce.data.config import DataConfig

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training and test batches, and their properties."""

    train: DataLoader
    """Shuffled batches: images float32 (batch, channels, height, width), labels int64 (batch,)."""
    test: DataLoader
    """Batches in a fixed order, without augmentation."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    input_shape: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...] | None
    """Mean of each channel, for pixels from 0 to 1; it is subtracted from the images. None if
    unknown."""
    std: tuple[float, ...] | None
    """Standard deviation of each channel; the images are divided by it. None if unknown."""


# name of a data set -> module with its `load(config, seed) -> Images`
_MODULES = {
    "mnist5k": "mnist5k",
    "emoji": "emoji",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "folder": "image_folder",
    "huggingface": "huggingface",
    "webdataset": "webdataset",
    "made_up": "made_up",
}


def build_data(config: DataConfig, *, seed: int) -> Data:
    """Create the training and test loaders that `config` describes.

    The order of the images, their augmentation, and synthetic images depend only on `seed` and the
    epoch, not on the number of workers or torch's global generator. The loaders divide the images
    among the processes of torch.distributed, so Lightning's Trainer needs
    `use_distributed_sampler=False`.

    Raises:
        DataError: The files are missing, damaged, or unsuitable for training.
        RecipeError: A user function does not exist, or fails.
        MissingExtraError: The data set needs a package that is not installed.
        ValueError: `seed` is below 0.
    """
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}")
    module = _MODULES.get(config.name, "user_data")
    images = import_module(f"quiesce.data.{module}").load(config, seed)
    loaders = import_module("quiesce.data.loaders")
    return Data(
        train=loaders.training_loader(images.train, config, seed, images.order),
        test=loaders.testing_loader(images.test, config),
        classes=images.classes,
        input_shape=images.input_shape,
        mean=images.mean,
        std=images.std,
    )
