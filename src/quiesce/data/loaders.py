"""Data loaders whose batches depend only on seed and epoch, and that can resume within an epoch.

The sampler gives (epoch, index) to the data set, which seeds the augmentation of each image with
it. So the images do not depend on the number of workers, or on whether a run was resumed. (The
StatefulDataLoader of torchdata also resumes, but uses deprecated functions of torch.)
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quiesce.data.config import DataConfig
from quiesce.data.sampling import EpochSampler, Key, Order, ShareSampler, mixed_seed
from quiesce.errors import DataError


class SeededImages(Dataset[tuple[Tensor, int]]):
    """Augments each image with random numbers that depend only on (seed, epoch, index).

    With a plain index, from another sampler, it uses torch's global generator.
    """

    def __init__(self, images: Dataset[tuple[Tensor, int]], seed: int) -> None:
        self.images = images
        self.seed = seed

    def __len__(self) -> int:
        return _size(self.images)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int]:
        if isinstance(key, int):
            return self.images[key]
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed(self.seed, epoch, index))
            return self.images[index]


class ResumableLoader(DataLoader):
    """A DataLoader with an `EpochSampler`; its state is the epoch and the number of batches.

    A complete iteration moves the sampler to the next epoch. Lightning saves the state in its
    checkpoints. After `load_state_dict`, the next iteration of the same epoch starts at the next
    batch.
    """

    _batches = 0  # so far in this epoch
    _resume_at: tuple[int, int] | None = None  # epoch, batches

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the number of batches of it so far."""
        epoch = cast("EpochSampler", self.sampler).epoch
        if self._batches == len(self):  # the epoch is complete
            return {"epoch": epoch + 1, "batches": 0}
        return {"epoch": epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        cast("EpochSampler", self.sampler).set_epoch(state["epoch"])
        self._resume_at = state["epoch"], state["batches"]

    def __iter__(self) -> Any:
        # a generator, so this runs at the first batch, after `set_epoch`
        sampler = cast("EpochSampler", self.sampler)
        resume_at, self._resume_at = self._resume_at, None
        self._batches = 0
        if resume_at is not None and resume_at[0] == sampler.epoch:
            self._batches = resume_at[1]
            sampler.skip = self._batches * (self.batch_size or 1)
        epoch = sampler.epoch
        for batch in super().__iter__():
            self._batches += 1
            yield batch
        sampler.set_epoch(epoch + 1)
        self._batches = 0


def training_loader(
    images: Dataset[tuple[Tensor, int]], config: DataConfig, seed: int, order: Order | None = None
) -> DataLoader:
    """Return shuffled batches of equal size; a smaller last batch is dropped.

    Args:
        order: See `EpochSampler`.

    Raises:
        DataError: There are fewer images than one batch.
    """
    size = _size(images)
    if size < config.batch_size:
        raise DataError(
            f"{config.name} has {size} training images, fewer than one batch of "
            f"{config.batch_size}; set data.batch_size to {size} or less"
        )
    return ResumableLoader(
        SeededImages(images, seed),
        batch_size=config.batch_size,
        sampler=EpochSampler(size, seed=seed, order=order),
        drop_last=True,
        **_shared_options(config),
    )


def testing_loader(images: Dataset[tuple[Tensor, int]], config: DataConfig) -> DataLoader:
    """Return all images in order; the last batch may be smaller."""
    return DataLoader(
        images,
        batch_size=config.test_batch_size,
        sampler=ShareSampler(_size(images)),
        **_shared_options(config),
    )


def _shared_options(config: DataConfig) -> dict[str, Any]:
    return {
        "num_workers": config.workers,
        "persistent_workers": config.workers > 0,
        "pin_memory": torch.cuda.is_available(),
        # reading data must not use torch's global generator
        "generator": torch.Generator().manual_seed(0),
    }


def _size(images: Dataset) -> int:
    return len(cast("list[object]", images))  # Dataset does not declare __len__
