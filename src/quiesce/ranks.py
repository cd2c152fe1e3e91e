"""What the processes of one training tell each other; alone, each function gives its argument."""

from typing import Any

from torch import Tensor, distributed


def count() -> int:
    """How many processes train together."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def largest(values: Tensor) -> Tensor:
    """The elementwise maximum over all ranks, in place."""
    if count() > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def gather(mine: Any) -> list[Any]:
    """What every rank has to say, in their order; made of plain Python values."""
    told = [mine] * count()
    if len(told) > 1:
        distributed.all_gather_object(told, mine)
    return told
