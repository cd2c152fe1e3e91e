"""Encoded pictures (JPEG, PNG, ...) of any source: decoding, transforms, the check before training.

Errors name a damaged picture. Of at most `check_up_to` pictures, all are decoded before training.
With more of them, where this could take an hour, the error occurs when the picture is read.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quiesce.data.config import DataConfig
from quiesce.data.images import channel_statistics
from quiesce.errors import DataError, first_line
from quiesce.extras import require

MEAN = (0.485, 0.456, 0.406)  # of ImageNet
STD = (0.229, 0.224, 0.225)

T = TypeVar("T")


class DamagedImageError(DataError):
    """An image cannot be read or decoded."""

    def __init__(self, message: str) -> None:
        # torch raises the exception of a worker again with its traceback as the message
        super().__init__(message.rpartition("DamagedImageError: ")[2].strip())


class Decoder:
    """Decodes images as RGB, and counts them for the error message about a damaged one.

    Args:
        data_set: Name of the data set, which needs the extra `train`.
    """

    def __init__(self, data_set: str) -> None:
        self.good = 0
        self._feature = f"the data set {data_set}"

    def __call__(self, file: Any, name: Callable[[], str] | None = None) -> Any:
        """Return an image, a PIL image.

        Args:
            file: A path or an open file.
            name: Returns its name in an error message; None: `file`.

        Raises:
            DamagedImageError: It cannot be decoded.
            MissingExtraError: Pillow is not installed.
        """
        read = require("PIL.Image", self._feature, "train").open
        try:
            with read(file) as opened:
                image = opened.convert("RGB")
        except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ...
            what = name() if name else file
            raise DamagedImageError(
                f"{what} cannot be decoded ({first_line(error)}); {self.good} images before it "
                "were read by this process. Replace or remove it"
            ) from error
        self.good += 1
        return image


class Encoded(Protocol):
    """The encoded images of a half of a data set."""

    labels: Any
    """Index of the class of each image: a numpy array of integers, of shape (images,)."""

    def read(self, index: int) -> bytes:
        """Return the encoded image at an index."""
        ...

    def where(self, index: int) -> str:
        """Return the name of an image in an error message."""
        ...


class EncodedImages(Dataset[tuple[Tensor, int]]):
    """Decodes and transforms encoded images.

    Args:
        encoded: The images.
        transform: From a PIL image to a tensor.
        data_set: Name of the data set.
    """

    def __init__(self, encoded: Encoded, transform: Callable[[Any], Tensor], data_set: str) -> None:
        self.encoded = encoded
        self.transform = transform
        self.decoder = Decoder(data_set)

    def __len__(self) -> int:
        return len(self.encoded.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.decoded(index)), int(self.encoded.labels[index])

    def decoded(self, index: int) -> Any:
        """Return the image at an index, a PIL image.

        Raises:
            DamagedImageError: It cannot be decoded.
        """
        file = BytesIO(self.encoded.read(index))
        return self.decoder(file, lambda: self.encoded.where(index))


def transform_of(config: DataConfig, size: int, *, training: bool) -> Callable[[Any], Tensor]:
    """Return the transform from a PIL image to a float32 tensor (3, size, size).

    Args:
        config: Uses `crop_share`, `interpolation`, `mean`, `std` and `augment`.
        size: Height and width in pixels.
        training: Whether to augment, if `config` says so.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    v2 = require("torchvision.transforms.v2", f"the data set {config.name}", "train")
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


def check(items: Sequence[T], decode: Callable[[T], object], name: Callable[[T], str]) -> None:
    """Decode every image.

    Args:
        items: The images, such as their paths.
        decode: Decodes one.
        name: Name of one in an error message.

    Raises:
        DataError: Some cannot be decoded; the message names the first one and their number.
    """

    def defect(item: T) -> str | None:
        try:
            decode(item)
        except DamagedImageError as error:
            return f"{name(item)} ({first_line(error.__cause__)})"
        return None

    with ThreadPoolExecutor() as pool:
        damaged = [found for found in pool.map(defect, items) if found is not None]
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(items)} images cannot be decoded, first {damaged[0]}; the "
            f"other {len(items) - len(damaged)} are good. Replace or remove the damaged ones"
        )


def check_encoded(config: DataConfig, *halves: EncodedImages) -> None:
    """Decode the images of all halves if there are at most `check_up_to`.

    Raises:
        DataError: Some cannot be decoded.
    """
    images = [(half, index) for half in halves for index in range(len(half))]
    if len(images) <= config.check_up_to:
        check(images, lambda i: i[0].decoded(i[1]), lambda i: i[0].encoded.where(i[1]))


def class_names(
    train: Encoded, test: Encoded, where: tuple[str, str], names: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Check all labels, and return the names of the classes.

    Args:
        train: At least one training image.
        test: At least one test image.
        where: Names of the two halves, for error messages.
        names: The names; None means "0", "1", ... up to the largest label of a training image.

    Raises:
        DataError: A label is negative or beyond the last class, or there is only one class.
    """
    if names is None:
        names = tuple(map(str, range(int(train.labels.max()) + 1)))
    last = len(names) - 1
    for half, of in zip((train, test), where, strict=True):
        if (lowest := int(half.labels.min())) < 0:
            raise DataError(
                f"{of} has the label {lowest}, and labels are 0 or more; an image without a label "
                "cannot be used"
            )
        if (highest := int(half.labels.max())) > last:
            raise DataError(f"{of} has the label {highest}, and the last class is {last}")
    if last < 1:
        raise DataError(
            f"{where[0]} has only one class ({', '.join(names)}); training needs two or more"
        )
    return names
