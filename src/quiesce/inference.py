"""Calling a model on batches of the user, and context managers for its modes.

A batch is one item of a data loader:

- a list or tuple: the first entry is the input, the second the label, the rest is ignored;
- any other object: the input itself, without a label.

An input holds the arguments of the model:

- a tuple: the positional arguments, `model(*input)`;
- a mapping: the keyword arguments, `model(**input)`;
- any other object, such as a tensor or a list of images: the only argument, `model(input)`.

So `(x, y)` is an input and its label, `((x, y),)` are two arguments without a label, and
`({"x": x}, y)` is a keyword argument and a label. A tuple of images next to a tuple of target
dictionaries, as collated in torchvision's detection examples, is treated as a list of images. For
other models, a function `forward`, called with the model and the batch, replaces these rules.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quiesce.parallel.wrappers import named_modules

Input: TypeAlias = Tensor | list[Any] | tuple[Any, ...] | Mapping[str, Any]
"""Input of a model: one argument, a tuple of positional or a mapping of keyword arguments."""

Batch: TypeAlias = Any
"""Item of a data loader: an `Input`, or a list or tuple of an `Input` and its label. With a
`Forward`, any object that it accepts."""

Forward: TypeAlias = Callable[[nn.Module, Any], Any]
"""Function that calls a model on a batch and returns the output of the model."""


class Arguments(NamedTuple):
    """Positional and keyword arguments of a model call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def split_batch(batch: Batch) -> tuple[Any, Any]:
    """Return the input of a batch and its label, or None without a label.

    Nothing is copied or moved to another device.

    Raises:
        TypeError: The input contains no tensor.
    """
    model_input, label = batch, label_of(batch)
    if _is_plain_sequence(batch) and batch:
        model_input = batch[0]
        if isinstance(model_input, tuple) and _are_targets(label, len(model_input)):
            model_input = list(model_input)
    if not named_tensors(model_input):
        raise TypeError(
            "a batch must be a tensor, a mapping of keyword arguments, or a tuple of an input and "
            f"its label, got {type(batch).__name__} without a tensor as its input; give `forward`, "
            "a function of (model, batch), for any other kind"
        )
    return model_input, label


def arguments_of(model_input: Input) -> Arguments:
    """Return the arguments of a model call for an input."""
    if isinstance(model_input, Mapping):
        return Arguments((), dict(model_input))
    if isinstance(model_input, tuple) and _is_plain_sequence(model_input):
        return Arguments(model_input, {})
    return Arguments((model_input,), {})


def call(model: nn.Module, model_input: Input) -> Any:
    """Call a model on an input; raise a TypeError if the forward takes other arguments."""
    args, kwargs = arguments_of(model_input)
    _check_signature(model, args, kwargs)
    return model(*args, **kwargs)


def call_on_batch(model: nn.Module, batch: Batch, forward: Forward | None = None) -> Any:
    """Call a model on the input of a batch, using `forward` if it is given."""
    return call(model, split_batch(batch)[0]) if forward is None else forward(model, batch)


def label_of(batch: Batch) -> Any:
    """Return the label of a batch: the second entry of a list or tuple, otherwise None."""
    return batch[1] if _is_plain_sequence(batch) and len(batch) > 1 else None


def leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested collections and dataclasses, with names such as "boxes.0"."""
    entries = _entries(tree)
    if entries is None:
        return [(name, tree)]
    return [leaf for key, value in entries for leaf in leaves(value, f"{name}.{key}".lstrip("."))]


def named_tensors(tree: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """Return the tensors among the `leaves` of a tree."""
    return [(each, leaf) for each, leaf in leaves(tree, name) if isinstance(leaf, Tensor)]


def map_tensors(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """Apply `change` to every tensor of a tree; see `map_leaves`."""
    return map_leaves(tree, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def map_leaves(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to every leaf of a tree, in the order of `leaves`; return the new tree.

    Mappings and dataclasses are returned as dictionaries.
    """
    entries = _entries(tree)
    if entries is None:
        return change(tree)
    changed = {key: map_leaves(value, change) for key, value in entries}
    if isinstance(tree, list):
        return list(changed.values())
    if isinstance(tree, tuple):
        values = tuple(changed.values())
        return values if _is_plain_sequence(tree) else type(tree)(*values)
    return changed


def _entries(tree: Any) -> list[tuple[Any, Any]] | None:
    """Return keys and values of a collection, or None for any other object."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, list | tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        return list(zip(names, tree, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(each.name, getattr(tree, each.name)) for each in dataclasses.fields(tree)]
    return None


def _is_plain_sequence(value: Any) -> bool:
    """Return whether `value` is a list or a tuple, but not a named tuple."""
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")


def _are_targets(label: Any, count: int) -> bool:
    """Return whether `label` has one dictionary for each of `count` images."""
    return (
        isinstance(label, list | tuple)
        and len(label) == count > 0
        and all(isinstance(each, Mapping) for each in label)
    )


def _check_signature(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # the forward is not written in Python
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = [f"{len(args)} positional"] * bool(args) + sorted(kwargs)
        raise TypeError(
            f"the forward of {type(model).__name__} cannot be called with {', '.join(given)} "
            f"({error}). Of a batch (x, y), x is the input and y the label: give ((x, y),) for two "
            'arguments, ({"name": x}, y) for keyword arguments, or `forward`, a function of '
            "(model, batch)"
        ) from None


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` in inference mode and restore its mode after the block."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training  # train() would change children and can be overridden


@contextmanager
def plain_average(norms: Iterable[BatchNorm]) -> Iterator[None]:
    """Reset the statistics of `norms` and compute their mean over the batches in the block.

    In the block, the norms are in training mode, but not their children. Mode and momentum are
    restored afterwards. If the block raises an error, the statistics are restored too.
    """
    norms = list(norms)
    before = [(norm.training, norm.momentum) for norm in norms]
    statistics = [buffers_of(norm) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # None: equal weight for all batches
        yield
    except BaseException:
        for norm, old in zip(norms, statistics, strict=True):
            put_back(norm, old)
        raise
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch norms of `model` with running statistics, by name."""
    return {
        name: module
        for name, module in named_modules(model)
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers of `module`, by name, for `put_back`."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def put_back(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Copy `buffers` into those of `module`."""
    for name, old in buffers.items():
        module.get_buffer(name).copy_(old)
