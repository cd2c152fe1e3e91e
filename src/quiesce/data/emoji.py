"""Pictures of emoji by several vendors: 64 × 64 pixels, classes are the categories of Unicode.

An emoji is in the same half for all vendors, so no test image is a training image by another
vendor. `quiesce data emoji` fetches the npm packages (docs/how-to/own-data.md has their licences).

Source: the npm packages emoji-datasource-google, -twitter, -apple and -facebook, of
https://github.com/iamcal/emoji-data.
"""

from pathlib import Path
from typing import Any
from zlib import crc32

import numpy
import torch

from quiesce.data.config import DataConfig
from quiesce.data.emoji_packages import default_folder, read_package
from quiesce.data.images import Images, TensorImages, as_numbers, channel_statistics
from quiesce.errors import DataError, first_line
from quiesce.extras import require

SIDE = 64  # pixels
TEST_EVERY = 5
"""An emoji is a test image if the CRC-32 of its code points, as text, is a multiple of this."""
LEFT_OUT = "Component"
"""A category of parts of emoji, such as skin tones."""
MEAN = (0.803, 0.752, 0.701)  # of the training images of google and twitter
STD = (0.295, 0.289, 0.342)


def load(config: DataConfig, seed: int) -> Images:
    """Return one picture for each emoji and vendor, on white.

    Args:
        config: Uses `folder`, `vendors`, `image_size`, `interpolation`, `mean`, `std` and
            `augment`.

    Raises:
        DataError: A package is missing, damaged or of another version.
        MissingExtraError: torchvision is not installed.
    """
    side = config.image_size or SIDE
    root = default_folder() if config.folder is None else Path(config.folder).expanduser()
    halves: dict[bool, list[tuple[Path, str]]] = {False: [], True: []}
    for vendor in config.vendors:
        for emoji, path in read_package(root, vendor):
            if emoji.category != LEFT_OUT:
                test = crc32(emoji.unified.encode()) % TEST_EVERY == 0
                halves[test].append((path, emoji.category))
    classes = sorted({category for half in halves.values() for _, category in half})
    if len(classes) < 2 or not all(halves.values()):
        raise DataError(
            f"{root} must hold training and test images of two classes, and holds "
            f"{len(halves[False])} and {len(halves[True])} of {len(classes)}"
        )
    statistics = channel_statistics(config, MEAN, STD)
    v2 = require("torchvision.transforms.v2", "the data set emoji", "train")
    shift = v2.RandomCrop(side, padding=max(1, side // 16), fill=255)
    augment = (shift, v2.RandomHorizontalFlip()) if config.augment == "standard" else ()

    def tensors(half: list[tuple[Path, str]], **options: Any) -> TensorImages:
        pictures = torch.stack([_picture(path, side, config.interpolation) for path, _ in half])
        labels = torch.tensor([classes.index(category) for _, category in half])
        return TensorImages(pictures, labels, **statistics, **options)

    return Images(
        train=tensors(halves[False], augment=augment),
        test=tensors(halves[True]),
        classes=tuple(classes),
        input_shape=(3, side, side),
        **as_numbers(statistics),
    )


def _picture(path: Path, side: int, interpolation: str) -> torch.Tensor:
    """Return a picture on white: uint8 (3, side, side)."""
    pillow = require("PIL.Image", "the data set emoji", "train")
    try:
        with pillow.open(path) as opened:
            drawn = opened.convert("RGBA")
    except Exception as error:  # decoders raise many kinds
        raise DataError(
            f"{path} cannot be decoded ({first_line(error)}); remove its package, and "
            "`quiesce data emoji` fetches it again"
        ) from error
    white = pillow.new("RGBA", drawn.size, "white")
    on_white = pillow.alpha_composite(white, drawn).convert("RGB")
    if drawn.size != (side, side):
        on_white = on_white.resize((side, side), pillow.Resampling[interpolation.upper()])
    return torch.from_numpy(numpy.array(on_white)).permute(2, 0, 1).contiguous()
