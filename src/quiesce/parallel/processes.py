"""The processes that train together: what they have seen, put together.

Every function is called by all of them alike. Where torch.distributed is not initialised there is
one process, and they give back what they got.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from quiesce.errors import QuiesceError
from quiesce.parallel.split_weights import is_split

T = TypeVar("T")


def are_many() -> bool:
    """Whether there is more than one process."""
    there = distributed.is_available() and distributed.is_initialized()
    return there and distributed.get_world_size() > 1


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP, whose forward overwrites buffers, or inside an AveragedModel."""
    while isinstance(model, DistributedDataParallel | AveragedModel):
        model = model.module
    return model


def total(values: Tensor) -> Tensor:
    """Sum over processes."""
    return _reduced(values, distributed.ReduceOp.SUM)


def largest(values: Tensor) -> Tensor:
    """Elementwise maximum over processes."""
    return _reduced(values, distributed.ReduceOp.MAX)


def gathered(values: Tensor) -> list[Tensor]:
    """The tensor of each process, in order; of any lengths, if they have one dimension."""
    if not are_many():
        return [values]
    count = distributed.get_world_size()
    lengths = [values.new_zeros(1, dtype=torch.int64) for _ in range(count)]
    distributed.all_gather(lengths, lengths[0].new_tensor([values.shape[0]]))
    sizes = [int(length) for length in lengths]
    padded = values.new_zeros(max(sizes), *values.shape[1:])
    padded[: values.shape[0]] = values
    parts = [torch.empty_like(padded) for _ in range(count)]
    distributed.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def told(mine: Any) -> list[Any]:
    """What each process has to say, in order; plain Python values, or small tensors in them."""
    if not are_many():
        return [mine]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


@contextmanager
def alike() -> Iterator[None]:
    """Have what one process meets in a block raised in all of them at its end.

    Raises:
        QuiesceError, OSError: That of the first process that has met one.
    """
    met: Exception | None = None
    try:
        yield
    except (QuiesceError, OSError) as error:
        met = error
    if found := [error for error in told(met) if error is not None]:
        raise met or found[0]


@torch.no_grad()
def follow_first(model: nn.Module) -> None:
    """Give all processes the floating buffers of the first: running statistics, above all."""
    if are_many():
        for buffer in unwrapped(model).buffers():
            if buffer.is_floating_point():
                distributed.broadcast(buffer, src=0)


def taken(batches: Iterable[T], count: int, model: nn.Module) -> Iterator[T]:
    """At most `count` batches; in step with the other processes where a forward waits for them.

    A forward of split weights or of SyncBatchNorm communicates. So that nobody waits for ever, all
    processes then stop with the first that has no batch left.
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
    """Whether a forward, in whatever mode, can wait for other processes."""
    return any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()) or any(
        is_split(parameter) for parameter in model.parameters()
    )


def _reduced(values: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
    values = values.clone()
    if are_many():
        distributed.all_reduce(values, how)
    return values
