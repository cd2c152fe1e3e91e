"""Measures how far the running statistics of batch norm are from the population statistics.

Source: Nagel et al., Overcoming Oscillations in QAT, ICML 2022, arXiv:2203.11086, tables 1 and 2.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quiesce.cures.batchnorm_reestimation import reestimate_batchnorm
from quiesce.diagnosis.feeding import feeding_layers
from quiesce.diagnosis.layers import quantiles
from quiesce.inference import Batch, Forward, Input, batch_norms, buffers_of, put_back
from quiesce.parallel.wrappers import module_named
from quiesce.quantization.kinds import Kind, layer_kind


@dataclass(frozen=True, kw_only=True)
class NormDiagnosis:
    """KL(population || running) of one batch norm, over its channels, in nats."""

    name: str
    """Name of the batch norm in the model."""
    feeds_from: str | None
    """Name of the layer whose output is its input, or None if something is in between."""
    kind: Kind
    """Kind of that layer; "other" if there is none."""
    channels: int
    kl_mean: float
    kl_max: float
    kl_quantiles: dict[str, float]
    """Quantile, as text ("0.9"), to the divergence."""


@contextmanager
def population_statistics(
    model: nn.Module, batches: Iterable[Batch], count: int = 50, *, forward: Forward | None = None
) -> Iterator[dict[str, Tensor]]:
    """Give `model` re-estimated batch-norm statistics in the block.

    Running statistics, modes and random states are restored afterwards, so this can be used during
    training.

    Args:
        model: The model; changed in the block.
        batches: See `reestimate_batchnorm`.
        count: Batches to read at most, at least 1.
        forward: As `reestimate_batchnorm` takes it.

    Yields:
        Name of the batch norm to KL(population || running) of its channels, in nats.

    Raises:
        NothingToDoError, DivergedError: See `reestimate_batchnorm`.
    """
    norms = batch_norms(model).values()
    running = [buffers_of(norm) for norm in norms]
    with unmoved_random_numbers(model):
        try:
            yield reestimate_batchnorm(model, batches, count, forward=forward)
        finally:
            for norm, statistics in zip(norms, running, strict=True):
                put_back(norm, statistics)


def diagnose_batchnorm(
    model: nn.Module, kl: Mapping[str, Tensor], example: Input
) -> list[NormDiagnosis]:
    """Return a diagnosis of each batch norm, in the order of the modules.

    Args:
        model: Float or prepared; it runs once in inference mode, and does not change.
        kl: The result of `reestimate_batchnorm` or `population_statistics`.
        example: An input of the model; shows which layer feeds which batch norm.
    """
    feeds = feeding_layers(model, example)
    return [
        NormDiagnosis(
            name=name,
            feeds_from=(layer := feeds[name]),
            kind=layer_kind(None if layer is None else module_named(model, layer)),
            channels=divergence.numel(),
            kl_mean=divergence.mean().item(),
            kl_max=divergence.max().item(),
            kl_quantiles=quantiles(divergence),
        )
        for name, divergence in kl.items()
    ]


def has_statistics(model: nn.Module) -> bool:
    """Return whether a batch norm of `model` has running statistics."""
    return bool(batch_norms(model))


@contextmanager
def unmoved_random_numbers(model: nn.Module) -> Iterator[None]:
    """Restore the random states of the CPU and of the CUDA device of `model`."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
