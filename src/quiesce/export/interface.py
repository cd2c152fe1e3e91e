"""Inputs and outputs of a file: named tensors for any arguments of a model."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.errors import ExportError
from quiesce.inference import (
    Arguments,
    Batch,
    Forward,
    Input,
    arguments_of,
    leaves,
    map_tensors,
    named_tensors,
    split_batch,
)

IMAGES = "images"
"""Name of a single floating-point input of a file."""

LOGITS = "logits"
"""Name of the output of a file, if the model returns a single tensor and no collection."""

BATCH = "batch"
"""Name of the dynamic batch dimension."""


class Example:
    """Arguments of a model, with the names of their tensors in a file.

    Args:
        arguments: Tensors on any device, and other arguments of the forward, which become
            constants.
        names: Names of the tensors, in the order of the arguments.
        batched: Names of the tensors whose first dimension is the batch.
    """

    def __init__(self, arguments: Arguments, names: Sequence[str], batched: Set[str]) -> None:
        tensors = [tensor for _, tensor in named_tensors(tuple(arguments))]
        self.arguments = arguments
        self.tensors = dict(zip(names, tensors, strict=True))
        self.batched = batched
        self.size = next((len(self.tensors[name]) for name in names if name in batched), 1)
        """Number of entries of the batch."""

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> "Example":
        """Return an example with each tensor replaced by `change(name, tensor)`."""
        names = iter(self.tensors)
        made = map_tensors(tuple(self.arguments), lambda tensor: change(next(names), tensor))
        return Example(Arguments(*made), list(self.tensors), self.batched)

    def to(self, device: torch.device) -> "Example":
        """Return the example on a device, without gradients."""
        return self.changed(lambda _, tensor: tensor.detach().to(device))

    def rows(self, start: int, stop: int) -> "Example":
        """Return some entries of the batch."""
        return self.changed(lambda name, t: t[start:stop] if name in self.batched else t)

    def run(self, model: nn.Module) -> Any:
        """Return the output of a model for the arguments."""
        return model(*self.arguments.args, **self.arguments.kwargs)


class OfTensors(nn.Module):
    """A network as a function from tensors to tensors.

    Args:
        note: Called with the names of the outputs in each forward; a trace resets attributes.
    """

    def __init__(
        self, network: nn.Module, example: Example, note: Callable[[Iterable[str]], None]
    ) -> None:
        super().__init__()
        self.network = network
        self._arguments = example.arguments
        self._note = note

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in the output of the network, in order."""
        given = iter(tensors)
        args, kwargs = map_tensors(tuple(self._arguments), lambda _: next(given))
        found = output_tensors(self.network(*args, **kwargs))
        self._note(found)
        return tuple(found.values())


def named_arguments(model: nn.Module, arguments: Arguments) -> Example:
    """Return arguments of a model, with names for the tensors among them.

    A tensor has the name of its argument in the forward: "input_ids", "features.0". A single
    floating tensor is called "images". The first dimension of the first tensor is the batch. It is
    also the batch of other tensors whose first dimension has that size, except for tensors in a
    list.
    """
    listed: set[str] = set()
    tensors: dict[str, Tensor] = {}
    names = _names(model, len(arguments.args))
    for argument, value in [*zip(names, arguments.args, strict=True), *arguments.kwargs.items()]:
        found = dict(named_tensors(value, argument))
        tensors |= found
        listed |= set(found) if isinstance(value, list) else set()
    if len(tensors) == 1 and next(iter(tensors.values())).is_floating_point():
        tensors = {IMAGES: next(iter(tensors.values()))}
        listed = {IMAGES} if listed else set()
    open_ended = {name: t for name, t in tensors.items() if t.dim() and name not in listed}
    size = next((len(tensor) for tensor in open_ended.values()), 0)
    batched = {name for name, tensor in open_ended.items() if len(tensor) == size}
    return Example(arguments, list(tensors), batched)


def example_of(model: nn.Module, example_input: Input) -> Example:
    """Return the arguments for `example_input`.

    Raises:
        TypeError: It holds no tensor, or the forward takes other arguments.
        ValueError: A tensor is empty.
    """
    example = named_arguments(model, arguments_of(example_input))
    if not example.tensors:
        raise TypeError(
            "`example_input` must be what the model takes: a tensor, a tuple or a mapping of "
            f"arguments, got {type(example_input).__name__}"
        )
    for name, tensor in example.tensors.items():
        if not tensor.numel() or (name == IMAGES and not tensor.dim()):
            shape = tuple(tensor.shape)
            raise ValueError(
                f"`example_input` must be a batch of one entry or more, got {name} of shape {shape}"
            )
    return example


def example_of_batch(model: nn.Module, batch: Batch, forward: Forward | None) -> Example:
    """Return the arguments with which a model is called on a batch.

    Args:
        model: The model; it runs in its present mode if `forward` is given.

    Raises:
        ExportError: `forward` does not call the model.
    """
    if forward is None:
        return named_arguments(model, arguments_of(split_batch(batch)[0]))
    seen: list[Arguments] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(Arguments(args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            forward(model, batch)
    finally:
        handle.remove()
    if not seen:
        raise ExportError(f"`forward` does not call {type(model).__name__}; it must call the model")
    return named_arguments(model, seen[0])


def output_tensors(output: Any) -> dict[str, Tensor]:
    """Return the tensors in the output of a model, by their names in a file.

    A single tensor is called "logits"; others have the names of the mapping or dataclass, or
    "output.0" by position. None is left out.

    Raises:
        ExportError: The output contains something other than tensors and None.
    """
    if isinstance(output, Tensor):
        return {LOGITS: output}
    found: dict[str, Tensor] = {}
    for path, leaf in leaves(output):
        name = f"output.{path}" if path[:1].isdigit() else path
        if isinstance(leaf, Tensor):
            found[name] = leaf
        elif leaf is not None:
            kind = type(leaf).__name__
            raise ExportError(
                f"the model returns a {kind}{f' as {name!r}' if name else ''}, and a file only "
                "holds tensors; switch it off (use_cache=False, return_dict=True?), or wrap the "
                "model in a module that returns tensors"
            )
    if not found:
        raise ExportError("the model returns no tensor")
    return found


def open_dimensions(
    example: Example, dynamic: Mapping[int, str], kind: Callable[[str], Any] = torch.export.Dim
) -> tuple[Any, ...]:
    """Return the dynamic dimensions of each tensor, in the format of torch.export.

    Args:
        dynamic: Names of further dimensions of the tensors with a batch, by number: {2: "height"}.
        kind: Function from a name to a dimension of torch.export.
    """
    sizes = {BATCH: torch.export.Dim(BATCH), **{name: kind(name) for name in dynamic.values()}}
    opened = {0: BATCH, **dynamic}
    return tuple(
        {dim: sizes[opened[dim]] for dim in opened if dim < tensor.dim()}
        if name in example.batched
        else None
        for name, tensor in example.tensors.items()
    )


def _names(model: nn.Module, count: int) -> list[str]:
    """Return the names of the first positional arguments of the forward."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that is not written in Python
        parameters = ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in parameters if each.kind in kinds][:count]
    return names + [f"input.{place}" for place in range(len(names), count)]
