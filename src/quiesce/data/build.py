"""From a `DataConfig` to the loaders of a run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from quiesce.data.config import DataConfig

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a network is trained and tested on."""

    train: DataLoader
    """Shuffled batches: images float32 (batch, channels, height, width), labels int64 (batch,)."""

    test: DataLoader
    """The same, in a fixed order, without augmentation."""

    classes: tuple[str, ...]
    """Name of each class, at the index of its label."""

    input_shape: tuple[int, int, int]
    """Channels, height, width."""

    mean: tuple[float, ...] | None
    """Of each channel, taken off each image, on the scale 0 to 1; None where it is not known."""

    std: tuple[float, ...] | None
    """Of each channel, that each image is divided by; None where it is not known."""


# name of a data set -> module that holds its `load(config, seed) -> Images`
_MODULES = {
    "mnist5k": "mnist5k",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "folder": "image_folder",
    "made_up": "made_up",
}


def build_data(config: DataConfig, *, seed: int) -> Data:
    """Make the training and test loaders that `config` describes.

    The order of the images, their augmentation, and made-up images are a function of `seed` and of
    the epoch alone: neither the number of workers nor torch's global generator changes them. Shards
    over the processes of torch.distributed are made here (`EpochSampler`): give Lightning's Trainer
    `use_distributed_sampler=False`.

    Args:
        config: The data set and how it is read.
        seed: 0 or more.

    Raises:
        DataError: The files are missing, damaged, or can not be trained on.
        RecipeError: A function of the user is not there, or fails.
        MissingExtraError: The data set needs a package that is not installed.
        ValueError: `seed` is below 0.
    """
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}")
    module = _MODULES.get(config.name, "user_data")
    images = import_module(f"quiesce.data.{module}").load(config, seed)
    loaders = import_module("quiesce.data.loaders")
    return Data(
        train=loaders.training_loader(images.train, config, seed),
        test=loaders.testing_loader(images.test, config),
        classes=images.classes,
        input_shape=images.input_shape,
        mean=images.mean,
        std=images.std,
    )
