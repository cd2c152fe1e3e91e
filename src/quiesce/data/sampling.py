"""Which images come in which order: a function of seed and epoch, whatever loads them."""

from collections.abc import Iterator
from hashlib import blake2b

import torch
from torch.utils.data import Sampler

from quiesce.parallel.processes import rank, world_size

Key = tuple[int, int]
"""Epoch and index of an image."""


class EpochSampler(Sampler[Key]):
    """Every image once an epoch, in an order that seed and epoch determine.

    The processes of torch.distributed get equal shares; the images left over, fewer than there are
    processes, are others in each epoch.

    Args:
        size: Images in the data set.
        seed: 0 or more.

    Attributes:
        epoch: The epoch of the next iteration, from 0; `set_epoch` moves it, an iteration does not.
        skip: Images that the next iteration leaves out at its start.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; a `ResumableLoader` and Lightning do."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // world_size()

    def __iter__(self) -> Iterator[Key]:
        epoch, skip, self.skip = self.epoch, self.skip, 0
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        order = torch.randperm(self.size, generator=generator)[: len(self) * world_size()]
        for index in order[rank() :: world_size()][skip:].tolist():
            yield epoch, index


class ShareSampler(Sampler[int]):
    """Every image once and in order, dealt out to the processes of torch.distributed: for tests."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return len(range(rank(), self.size, world_size()))

    def __iter__(self) -> Iterator[int]:
        return iter(range(rank(), self.size, world_size()))


def mixed_seed(*parts: int) -> int:
    """One well mixed seed below 2^63 from whole numbers."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1
