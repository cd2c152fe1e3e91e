"""Small random images that can be learned: one random pattern a class, half hidden by noise."""

import math

import torch
from torch import Tensor

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, TensorImages, as_numbers, channel_statistics
from quiesce.errors import DataError

MOST_PIXELS = 2**25
"""Of all images and patterns, each channel counting: while they are made, 24 bytes each."""


def load(config: DataConfig, seed: int) -> Images:
    """Images that are a function of `config` and `seed`; the classes take turns.

    Raises:
        DataError: They are more than a test needs and memory holds.
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
