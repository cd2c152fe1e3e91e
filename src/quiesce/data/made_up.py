"""Small synthetic images that can be learned: one random pattern per class, with noise."""

import math

import torch
from torch import Tensor

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, TensorImages, as_numbers, channel_statistics
from quiesce.errors import DataError

MOST_PIXELS = 2**25
"""Largest number of pixels of all images and patterns, over all channels."""


def load(config: DataConfig, seed: int) -> Images:
    """Return images that depend only on `config` and `seed`, with alternating classes.

    Raises:
        DataError: There are too many pixels.
    """
    side = config.image_size or 32
    shape = (config.channels, side, side)
    pixels = (config.classes + config.train_images + config.test_images) * math.prod(shape)
    if pixels > MOST_PIXELS:
        raise DataError(
            f"made_up makes at most {MOST_PIXELS:,} pixels, and the recipe asks for {pixels:,}; "
            "lower data.image_size or the number of images"
        )
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randint(0, 256, (config.classes, *shape), generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % config.classes
        noise = torch.randint(0, 256, (count, *shape), generator=generator)
        return ((patterns[labels] + noise) // 2).to(torch.uint8), labels

    statistics = channel_statistics(config, (0.5,) * config.channels, (0.2,) * config.channels)
    return Images(
        train=TensorImages(*draw(config.train_images), **statistics),
        test=TensorImages(*draw(config.test_images), **statistics),
        classes=tuple(f"class_{number}" for number in range(config.classes)),
        input_shape=shape,
        **as_numbers(statistics),
    )
