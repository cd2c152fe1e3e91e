"""Images held as tensors, their augmentation, and what every data set hands over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quiesce.data.config import DataConfig
from quiesce.errors import DataError

Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Images:
    """The two halves of a data set, image by image."""

    train: Dataset[tuple[Tensor, int]]
    """(image (channels, height, width) float32, label), augmented."""

    test: Dataset[tuple[Tensor, int]]
    """The same, not augmented."""

    classes: tuple[str, ...]
    """Name of each class, at the index of its label."""

    input_shape: tuple[int, int, int]
    """Channels, height, width."""

    mean: tuple[float, ...] | None = None
    """Of each channel, taken off each image, on the scale 0 to 1; None where it is not known."""

    std: tuple[float, ...] | None = None
    """Of each channel, that each image is divided by; None where it is not known."""


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Images that fit into memory.

    Args:
        images: uint8 of shape (images, channels, height, width).
        labels: int64 of shape (images,).
        mean: Shape (channels,), on the scale 0 to 1.
        std: Shape (channels,), on the scale 0 to 1, above 0.
        augment: uint8 image (channels, height, width) -> image of the same shape, in this order.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        augment: Sequence[Augment] = (),
    ) -> None:
        self.images = images
        self.labels = labels.tolist()
        self.augment = tuple(augment)
        self._offset = mean.view(-1, 1, 1) * 255
        self._factor = 1 / (255 * std.view(-1, 1, 1))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        for change in self.augment:
            image = change(image)
        return (image - self._offset) * self._factor, self.labels[index]


def channel_statistics(
    config: DataConfig, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Mean and std that `config` gives, or else the data set's own, as tensors of (channels,).

    Raises:
        DataError: `config` gives neither one number nor one for each channel.
    """
    chosen = {}
    for field, own in (("mean", mean), ("std", std)):
        given = getattr(config, field)
        if given is not None and len(given) not in (1, len(own)):
            raise DataError(f"data.{field} must be 1 or {len(own)} numbers, got {len(given)}")
        chosen[field] = torch.tensor(own if given is None else given).expand(len(own))
    return chosen


def as_numbers(statistics: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """What `channel_statistics` gives, as the fields `mean` and `std` of `Images`."""
    return {name: tuple(values.tolist()) for name, values in statistics.items()}
