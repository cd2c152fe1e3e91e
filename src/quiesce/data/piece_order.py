"""An order of images that reads large files in pieces, and mixes them nearly as well as at random.

The pieces of all files are shuffled, and the images of each `WINDOW` pieces are mixed. Each process
and each of its workers gets a contiguous part of this order, and therefore reads a piece once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quiesce.errors import DataError

WINDOW = 8
"""Pieces whose images are mixed; a worker keeps as many in memory."""


@dataclass(frozen=True, kw_only=True)
class PieceOrder:
    """The order, which depends only on the generator, these fields, and the processes."""

    name: str
    """Name of the data set in error messages."""
    files: int
    """Number of files."""
    sizes: Sequence[int]
    """Images of each piece, in the order of the indices of images."""
    batch_size: int
    workers: int
    """Processes that load batches in turn."""

    def __call__(self, generator: torch.Generator, rank: int, processes: int) -> Tensor:
        """Return the indices of the images of a process; see `sampling.Order`.

        Raises:
            DataError: There are fewer files than workers of all processes.
        """
        readers = max(1, self.workers) * processes
        if self.files < readers:
            raise DataError(
                f"{self.name}: {self.files} shards are fewer than {readers} readers (data.workers "
                f"{self.workers}, processes {processes}); use fewer, or make smaller shards"
            )
        sizes = torch.tensor(self.sizes)
        begins = sizes.cumsum(0) - sizes
        windows = []
        for pieces in torch.randperm(len(sizes), generator=generator).split(WINDOW):
            images = torch.cat(
                [begins[piece] + torch.arange(self.sizes[piece]) for piece in pieces.tolist()]
            )
            windows.append(images[torch.randperm(len(images), generator=generator)])
        order = torch.cat(windows)
        share = len(order) // processes
        return in_turn(order[rank * share : (rank + 1) * share], self.batch_size, self.workers)


def in_turn(order: Tensor, batch_size: int, workers: int) -> Tensor:
    """Divide an order into a part for each worker, and return it as batches of all parts in turn.

    Loaders give batch b to worker b mod `workers`. What does not fill a batch comes last.
    """
    count = len(order) // batch_size
    batches = order[: count * batch_size].view(count, batch_size)
    parts = batches.tensor_split(max(1, min(workers, count)))
    turns = [part[i : i + 1] for i in range(len(parts[0])) for part in parts]
    return torch.cat([*(turn.flatten() for turn in turns), order[count * batch_size :]])
