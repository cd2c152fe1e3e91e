"""Loaders whose batches are a function of seed and epoch, and that resume inside an epoch.

The sampler hands (epoch, index) to the data set, which seeds each image's augmentation from it:
the same images come with 0 workers or 8, in the first run or in one that was resumed.
(torchdata's StatefulDataLoader resumes too, but calls what torch has deprecated, and keeps state
that is not needed here: two whole numbers say everything.)
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quiesce.data.config import DataConfig
from quiesce.data.sampling import EpochSampler, Key, ShareSampler, mixed_seed
from quiesce.errors import DataError


class SeededImages(Dataset[tuple[Tensor, int]]):
    """Draws the augmentation of each image from (seed, epoch, index) and nothing else.

    A plain index, as other samplers give it, reads the image with torch's global generator.
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
    """A DataLoader over an `EpochSampler` whose state is the epoch and the batches handed out.

    An iteration that is finished moves the sampler to the next epoch; one that is dropped does not.
    Lightning puts the state into its checkpoints; after `load_state_dict` the next iteration of the
    same epoch begins with the batch that would have come next.
    """

    _batches = 0  # handed out in this epoch
    _resume_at: tuple[int, int] | None = None  # epoch, batches

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches handed out in it."""
        epoch = cast("EpochSampler", self.sampler).epoch
        if self._batches == len(self):  # all: the iteration only does not know yet that it is over
            return {"epoch": epoch + 1, "batches": 0}
        return {"epoch": epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        cast("EpochSampler", self.sampler).set_epoch(state["epoch"])
        self._resume_at = state["epoch"], state["batches"]

    def __iter__(self) -> Any:
        # a generator: what follows happens at the first batch, when `set_epoch` has been called
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
    images: Dataset[tuple[Tensor, int]], config: DataConfig, seed: int
) -> DataLoader:
    """Shuffled batches of one size; a last, smaller one is left out.

    Raises:
        DataError: There are not enough images for one batch.
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
        sampler=EpochSampler(size, seed=seed),
        drop_last=True,
        **_shared_options(config),
    )


def testing_loader(images: Dataset[tuple[Tensor, int]], config: DataConfig) -> DataLoader:
    """All images in order; the last batch may be smaller."""
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
        # its own generator: a pass over the data must not draw from torch's global one
        "generator": torch.Generator().manual_seed(0),
    }


def _size(images: Dataset) -> int:
    return len(cast("list[object]", images))  # Dataset does not declare the length that it has
