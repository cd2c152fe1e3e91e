"""Communication between the processes of a distributed training.

All processes must call these functions together. Without torch.distributed there is one process,
and the functions return their input.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from quiesce.errors import QuiesceError
from quiesce.parallel.split_weights import is_split
from quiesce.parallel.wrappers import unwrapped

T = TypeVar("T")


def world_size() -> int:
    """Return the number of processes."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def are_many() -> bool:
    """Return whether there is more than one process."""
    return world_size() > 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if are_many() else 0


def total(values: Tensor) -> Tensor:
    """Return the sum over processes."""
    return _reduced(values, distributed.ReduceOp.SUM)


def largest(values: Tensor) -> Tensor:
    """Return the elementwise maximum over processes."""
    return _reduced(values, distributed.ReduceOp.MAX)


def gathered(values: Tensor) -> list[Tensor]:
    """Return the tensor of each process, in order of rank; first dimensions may differ."""
    if not are_many():
        return [values]
    count = world_size()
    lengths = [values.new_zeros(1, dtype=torch.int64) for _ in range(count)]
    distributed.all_gather(lengths, lengths[0].new_tensor([values.shape[0]]))
    sizes = [int(length) for length in lengths]
    padded = values.new_zeros(max(sizes), *values.shape[1:])
    padded[: values.shape[0]] = values
    parts = [torch.empty_like(padded) for _ in range(count)]
    distributed.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def gathered_objects(mine: Any) -> list[Any]:
    """Return the value of each process, in order of rank: Python values with small tensors."""
    if not are_many():
        return [mine]
    everyone: list[Any] = [None] * world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


@contextmanager
def raised_together() -> Iterator[None]:
    """After the block, raise an error in all processes if one process raised it in the block.

    Raises:
        QuiesceError, OSError: The error of this process, or else that of the first failed process.
    """
    met: Exception | None = None
    try:
        yield
    except (QuiesceError, OSError) as error:
        met = error
    if found := [error for error in gathered_objects(met) if error is not None]:
        raise met or found[0]


@torch.no_grad()
def follow_first(model: nn.Module) -> None:
    """Copy floating-point buffers, such as running statistics, from rank 0 to all processes."""
    if are_many():
        for buffer in unwrapped(model).buffers():
            if buffer.is_floating_point():
                distributed.broadcast(buffer, src=0)


def taken(batches: Iterable[T], count: int, model: nn.Module) -> Iterator[T]:
    """Yield at most `count` batches, the same number per process if a forward pass communicates.

    A forward pass of split weights or SyncBatchNorm waits for the other processes. All processes
    therefore stop as soon as one has no batch left.
    """
    reading = islice(batches, count)
    if not (are_many() and forward_communicates(model)):
        yield from reading
        return
    device = next(model.parameters()).device
    while True:
        batch = next(reading, None)
        if bool(largest(torch.tensor(float(batch is None), device=device))) or batch is None:
            return
        yield batch


def forward_communicates(model: nn.Module) -> bool:
    """Return whether a forward pass can wait for other processes."""
    return any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) or any(
        is_split(parameter) for parameter in model.parameters()
    )


def _reduced(values: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
    values = values.clone()
    if are_many():
        distributed.all_reduce(values, how)
    return values
