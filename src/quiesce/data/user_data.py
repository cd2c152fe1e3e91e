"""User data sets: `data.name` is `module:name` of a function that returns `Images`."""

from __future__ import annotations

from itertools import chain
from operator import index
from typing import Any, Protocol

import torch
from torch import Tensor

from quiesce.data.config import DataConfig
from quiesce.data.images import Images
from quiesce.errors import DataError
from quiesce.user_code import call, run

FIELD = "data.name"


class MakeData(Protocol):
    """A function that creates a data set. It may omit parameters that it does not use."""

    def __call__(self, config: DataConfig, seed: int) -> Images:
        """Return both halves of the data set, image by image.

        Args:
            config: The section `data` of the recipe, such as `folder` and `image_size`.
            seed: The seed of the run.

        Returns:
            Data sets with a length, whose items are an image, float32 of `input_shape`, and the
            index of its class. Random augmentation must use torch's generator, which is seeded for
            each image. `mean` and `std` describe the normalisation of the images, for `quiesce
            predict`.
        """
        ...


def load(config: DataConfig, seed: int) -> Images:
    """Call the function in `config.name`, and check its result.

    Raises:
        RecipeError: The function does not exist, or fails.
        DataError: The result does not match the description in `MakeData`.
    """
    images = call(config.name, FIELD, config=config, seed=seed)
    where = f"{FIELD}: {config.name}"
    if not isinstance(images, Images):
        raise DataError(
            f"{where} must return quiesce.data.images.Images, and returns {type(images).__name__}"
        )
    if len(images.classes) < 2:
        raise DataError(f"{where}: `classes` must be two names or more")
    for half in ("train", "test"):
        _check(getattr(images, half), images, f"{where}: {half}")
    channels = images.input_shape[0]
    for numbers in (images.mean, images.std):
        if numbers is not None and len(numbers) != channels:
            raise DataError(f"{where}: `mean` and `std` must have a number for each channel")
    return images


def _check(half: Any, images: Images, where: str) -> None:
    """Check the length and the first image of a half."""
    if not hasattr(half, "__len__") or not hasattr(half, "__getitem__"):
        raise DataError(f"{where} must have __len__ and __getitem__")
    if len(half) == 0:
        raise DataError(f"{where} holds no image")
    item = run(lambda: half[0], f"{where}[0]")
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{where}[0] must be an image and the index of its class")
    image, label = item
    shape = tuple(images.input_shape)
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or image.shape != shape:
        got = _described(image)
        raise DataError(f"{where}[0]: the image must be a float32 tensor of {shape}, got {got}")
    last = len(images.classes) - 1
    try:
        good = 0 <= index(label) <= last
    except TypeError:
        good = False
    if not good:
        raise DataError(
            f"{where}[0]: the label must be the index of its class, 0 to {last}, got {label!r:.40}"
        )


def _described(image: Any) -> str:
    if not isinstance(image, Tensor):
        return type(image).__name__
    return " ".join(chain([str(image.dtype).removeprefix("torch.")], map(str, image.shape)))
