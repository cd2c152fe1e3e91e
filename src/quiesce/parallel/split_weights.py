"""Weights that FSDP2 splits over processes (DTensor).

    model = prepare(model, ...)
    calibrate(model, batches)
    fully_shard(model, ignored_params=keep_whole(model))   # torch.distributed.fsdp
    optimizer = ...; Control(optimizer, ...)

Each process tracks and cures its part of every weight. Scales are small and needed by all
processes, so they are not split. The forward pass of a layer needs the history records of the whole
weight, one byte per weight; they are gathered for the duration of the forward pass.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Shards:
    """The split of a weight over processes, and the part of this process.

    Args:
        weight: A split weight whose placements are `Shard` or `Replicate`.

    Attributes:
        key: Equal for weights that are split in the same way over the same processes.
        first: Whether this process has the first part; only it counts values that all parts have.

    Raises:
        ValueError: The weight has another placement.
    """

    def __init__(self, weight: "DTensor") -> None:
        # torch has no public function for the local part of a weight
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
        """Return the part of `values` that belongs to this process: a view, or a local part.

        Args:
            values: A tensor of the shape of the weight, or broadcastable to it.
        """
        if is_split(values):
            return local(values)
        for dim, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            if values.dim() and values.size(dim) > 1:
                values = values.narrow(dim, min(start, values.size(dim)), size)
        return values

    def join(self, part: Tensor) -> "DTensor":
        """Return the parts of all processes as one DTensor; nothing is copied."""
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
        """Return the sum of `values` over the parts; all processes call this."""
        values = values.clone()
        for dim in self._dims:
            distributed.all_reduce(values, group=self._mesh.get_group(dim))
        return values


def is_split(values: object) -> "TypeGuard[DTensor]":
    """Return whether a tensor is split over processes."""
    # importing DTensor is slow, and no DTensor exists before it is imported
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(values, module.DTensor)


def local(values: Tensor) -> Tensor:
    """Return the part of `values` in this process, or all if not split; detached, shared memory."""
    values = values.detach()
    return values.to_local() if is_split(values) else values


def whole(state: Any) -> Any:
    """Return a state with all split tensors gathered, so that one process can save it to a file.

    Args:
        state: A tensor, or nested dicts, lists and tuples. All processes must call this together.

    Examples:
        >>> qs.whole({"weight": torch.ones(2)})["weight"].tolist()
        [1.0, 1.0]
    """
    if is_split(state):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state


def reshard(model: nn.Module) -> None:
    """Make FSDP2 release gathered parameters after a forward pass, so that they are split again."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is not None and hasattr(module, "FSDPModule"):
        for each in model.modules():
            if isinstance(each, module.FSDPModule):
                each.reshard()  # pyright: ignore[reportCallIssue]


def average_gradients(
    parameters: set[nn.Parameter], group: distributed.ProcessGroup | None = None
) -> None:
    """Average the gradients of `parameters` over processes after every backward pass."""
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
    """Gather a split tensor of `module` for the duration of its forward pass."""
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
