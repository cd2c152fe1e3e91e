"""Running a model on batches of the user: its input, and its modes for the length of a block."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` in inference mode, and each back in its own mode afterwards.

    Args:
        model: A model in any mixture of modes.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training  # train() would reach the children, and may be overridden


@contextmanager
def plain_average(norms: Iterable[BatchNorm]) -> Iterator[None]:
    """Let `norms` forget their statistics and take the plain average over the batches they see.

    They are in training mode meanwhile, alone: none of their children is. Mode and momentum come
    back afterwards. When the block raises, the statistics come back too.

    Args:
        norms: Batch norms that keep running statistics.
    """
    norms = list(norms)
    before = [(norm.training, norm.momentum) for norm in norms]
    statistics = [buffers_of(norm) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # None: torch averages all batches alike
        yield
    except BaseException:
        for norm, old in zip(norms, statistics, strict=True):
            put_back(norm, old)
        raise
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch norms of `model` that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers of `module`, by name, for `put_back`."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def put_back(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Copy `buffers` into those of `module`.

    Args:
        module: Changed in place.
        buffers: What `buffers_of` gave for it.
    """
    for name, old in buffers.items():
        module.get_buffer(name).copy_(old)


def inputs_of(batch: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the input of `batch`.

    Args:
        batch: The input itself, shape (batch, ...), or a tuple or list whose first entry it is, as
            data loaders yield.

    Returns:
        The input, as it is: neither copied nor moved to another device.

    Raises:
        TypeError: `batch` is neither.
    """
    if isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor):
        raise TypeError(
            "`batches` must yield tensors, or tuples that start with one, "
            f"got {type(batch).__name__}"
        )
    return batch
