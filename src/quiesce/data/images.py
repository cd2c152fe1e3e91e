"""The images of a data set, and data sets that fit into memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from quiesce.data.config import DataConfig
from quiesce.data.sampling import Order
from quiesce.errors import DataError

Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Training and test images; the other fields are those of `quiesce.data.Data`."""

    train: Dataset[tuple[Tensor, int]]
    """Pairs of an augmented image, float32 (channels, height, width), and its label."""
    test: Dataset[tuple[Tensor, int]]
    """The same, without augmentation."""
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: Order | None = None
    """Order of the training images; None draws each one at random from all of them."""


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Images that fit into memory.

    Args:
        images: uint8 of shape (images, channels, height, width).
        labels: int64 of shape (images,).
        mean: Mean of each channel, for pixels from 0 to 1: shape (channels,).
        std: Standard deviation of each channel, above 0: shape (channels,).
        augment: Functions that change a uint8 image (channels, height, width), in their order.
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
    """Return `mean` and `std` from `config`, or else of the data set, as tensors (channels,).

    Raises:
        DataError: `config` has neither one number nor one for each channel.
    """
    chosen = {}
    for field, own in (("mean", mean), ("std", std)):
        given = getattr(config, field)
        if given is not None and len(given) not in (1, len(own)):
            raise DataError(f"data.{field} must be 1 or {len(own)} numbers, got {len(given)}")
        chosen[field] = torch.tensor(own if given is None else given).expand(len(own))
    return chosen


def as_numbers(statistics: dict[str, Any]) -> dict[str, Any]:
    """Return a result of `channel_statistics` as the fields `mean` and `std` of `Images`."""
    return {name: tuple(values.tolist()) for name, values in statistics.items()}
