"""The order of the images, which depends only on seed and epoch."""

from collections.abc import Callable, Iterator
from hashlib import blake2b

import torch
from torch import Tensor
from torch.utils.data import Sampler

from quiesce.parallel.processes import rank, world_size

Key = tuple[int, int]
"""Epoch and index of an image."""

Order = Callable[[torch.Generator, int, int], Tensor]
"""From a generator, the rank of a process, and the number of processes, to the indices of the
images of this process in their order: int64, the same number in every process."""


def fully_mixed(size: int) -> Order:
    """Return the order that draws each image at random from all of them."""

    def order(generator: torch.Generator, rank: int, processes: int) -> Tensor:
        drawn = torch.randperm(size, generator=generator)
        return drawn[: size // processes * processes][rank::processes]

    return order


class EpochSampler(Sampler[Key]):
    """Yields every image once per epoch, in an order that depends only on seed and epoch.

    The processes of torch.distributed get equal shares. The remaining images, fewer than there are
    processes, differ between epochs.

    Args:
        order: The order; None means `fully_mixed`.

    Attributes:
        epoch: Epoch of the next iteration, from 0; only `set_epoch` changes it.
        skip: Number of images that the next iteration skips.
    """

    def __init__(self, size: int, *, seed: int, order: Order | None = None) -> None:
        self.size = size
        self.seed = seed
        self.order = order or fully_mixed(size)
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // world_size()

    def __iter__(self) -> Iterator[Key]:
        epoch, skip, self.skip = self.epoch, self.skip, 0
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        for index in self.order(generator, rank(), world_size())[skip:].tolist():
            yield epoch, index


class ShareSampler(Sampler[int]):
    """Yields every test image once and in order, divided among processes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return len(range(rank(), self.size, world_size()))

    def __iter__(self) -> Iterator[int]:
        return iter(range(rank(), self.size, world_size()))


def mixed_seed(*parts: int) -> int:
    """Return a seed below 2^63, hashed from integers."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1
