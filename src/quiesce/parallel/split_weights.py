"""Weights that are split over processes: what FSDP2 makes of a parameter, a DTensor.

    model = prepare(model, ...)
    calibrate(model, batches)
    fully_shard(model, ignored_params=keep_whole(model))   # torch.distributed.fsdp
    optimizer = ...; Control(optimizer, ...)

Each process then follows and cures the part of every weight that it holds. Scales are small and
needed by all, so they stay whole. A layer's forward needs the records of its whole weight, which
say what is frozen: they are put together for the time of the forward, a byte for each weight.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Shards:
    """How a weight is split, and which part of it this process holds.

    Args:
        weight: Split; every placement is `Shard` or `Replicate`.

    Attributes:
        key: Equal for weights that are split alike over the same processes.
        first: Whether this process holds the first part: one process is to count what all share.

    Raises:
        ValueError: It is split in another way.
    """

    def __init__(self, weight: "DTensor") -> None:
        # no public function says which part of a weight a process holds
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        self._mesh, self._placements = weight.device_mesh, tuple(weight.placements)
        if not all(type(p).__name__ in ("Shard", "Replicate") for p in self._placements):
            raise ValueError(f"placements must be Shard or Replicate, got {self._placements}")
        self._shape, self._stride = weight.shape, weight.stride()
        self._dims = [dim for dim, p in enumerate(self._placements) if p.is_shard()]
        self._sizes, self._starts = compute_local_shape_and_global_offset(
            weight.shape, self._mesh, self._placements
        )
        self.key = (self._mesh, self._placements)
        place = self._mesh.get_coordinate() or []
        self.first = all(place[dim] == 0 for dim in self._dims)

    def part(self, values: Tensor) -> Tensor:
        """What belongs to the part held here: a view, or where `values` is split what it holds.

        Args:
            values: Of the weight's shape, or broadcastable to it.
        """
        if is_split(values):
            return local(values)
        for dim, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            if values.dim() and values.size(dim) > 1:
                values = values.narrow(dim, min(start, values.size(dim)), size)
        return values

    def join(self, part: Tensor) -> "DTensor":
        """The parts that all processes hold as one tensor of the weight's shape; nothing moves."""
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            part,
            self._mesh,
            self._placements,
            run_check=False,
            shape=self._shape,
            stride=self._stride,
        )

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over the parts; all processes call it."""
        values = values.clone()
        for dim in self._dims:
            distributed.all_reduce(values, group=self._mesh.get_group(dim))
        return values


def is_split(values: object) -> "TypeGuard[DTensor]":
    """Whether a tensor is split over processes."""
    # where nobody has imported it there is none, and importing it takes a while
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(values, module.DTensor)


def local(values: Tensor) -> Tensor:
    """The part of `values` that this process holds, detached: their memory; all if not split."""
    values = values.detach()
    return values.to_local() if is_split(values) else values


def whole(state: Any) -> Any:
    """A state with every split tensor in it put together, for files that one process writes.

    Args:
        state: Tensors, alone or in dicts, lists and tuples; all processes call this alike.
    """
    if is_split(state):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state


def reshard(model: nn.Module) -> None:
    """Have FSDP2 give back what a forward has put together, so that parameters are split ones."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is not None and hasattr(module, "FSDPModule"):
        for each in model.modules():
            if isinstance(each, module.FSDPModule):
                each.reshard()  # pyright: ignore[reportCallIssue]


def average_gradients(
    parameters: set[nn.Parameter], group: distributed.ProcessGroup | None = None
) -> None:
    """Have the gradients of `parameters` averaged over processes at every backward.

    Accumulation is right too: averaging once more what is the same everywhere changes nothing.
    """
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(_averaging(group))


def _averaging(group: distributed.ProcessGroup | None) -> Callable[[Tensor], None]:
    @torch.no_grad()
    def average(parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is not None and distributed.is_initialized():
            distributed.all_reduce(gradient, group=group)
            gradient /= distributed.get_world_size(group)

    return average


def put_together(module: nn.Module, name: str) -> None:
    """Let the forward of `module` see a tensor whole, however it is split outside of it."""
    kept: list[Tensor | None] = []

    def gather(*_: Any) -> None:
        values = getattr(module, name)
        kept.append(values)
        if is_split(values):
            setattr(module, name, values.full_tensor())

    def give_back(*_: Any) -> None:
        setattr(module, name, kept.pop())

    module.register_forward_pre_hook(gather)
    module.register_forward_hook(give_back, always_call=True)
