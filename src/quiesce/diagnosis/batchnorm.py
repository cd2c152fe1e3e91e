"""How far the running statistics of batch norm are from those of the network as it is.

Source: Nagel et al., Overcoming Oscillations in QAT, ICML 2022, arXiv:2203.11086, tables 1 and 2.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quiesce.cures.batchnorm_reestimation import reestimate_batchnorm
from quiesce.diagnosis.feeding import feeding_layers
from quiesce.diagnosis.kinds import Kind, layer_kind
from quiesce.diagnosis.layers import quantiles
from quiesce.inference import Batch, Forward, Input, buffers_of, put_back


@dataclass(frozen=True, kw_only=True)
class NormDiagnosis:
    """KL(population || running) of one batch norm, over its channels, in nats."""

    name: str
    """Name of the batch norm in the model."""
    feeds_from: str | None
    """Name of the layer whose output it gets; None where something lies between."""
    kind: Kind
    """Kind of that layer; "other" where there is none."""
    channels: int
    kl_mean: float
    kl_max: float
    kl_quantiles: dict[str, float]
    """Share of channels, as text ("0.9"), to the divergence that so many do not exceed."""


@contextmanager
def population_statistics(
    model: nn.Module, batches: Iterable[Batch], count: int = 50, *, forward: Forward | None = None
) -> Iterator[dict[str, Tensor]]:
    """Let `model` have re-estimated batch-norm statistics for the length of the block.

    Running statistics, modes and torch's random numbers are afterwards as they were, so it can be
    used in the middle of training.

    Args:
        model: Changed for the block.
        batches: As `reestimate_batchnorm` takes them.
        count: Batches to read at most, at least 1.
        forward: As `reestimate_batchnorm` takes it.

    Yields:
        Name of the batch norm to KL(population || running) of its channels, in nats.

    Raises:
        NothingToDoError, DivergedError: As `reestimate_batchnorm` raises them.
    """
    norms = _norms(model)
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
    """Return a diagnosis of each batch norm, in the order of the model's modules.

    Args:
        model: Float or prepared; run once in inference mode, nothing of it moves.
        kl: What `reestimate_batchnorm` returned for it, or `population_statistics` yielded.
        example: What the model takes: shows which layer feeds which batch norm.
    """
    feeds = feeding_layers(model, example)
    return [
        NormDiagnosis(
            name=name,
            feeds_from=(layer := feeds[name]),
            kind=layer_kind(None if layer is None else model.get_submodule(layer)),
            channels=divergence.numel(),
            kl_mean=divergence.mean().item(),
            kl_max=divergence.max().item(),
            kl_quantiles=quantiles(divergence),
        )
        for name, divergence in kl.items()
    ]


def has_statistics(model: nn.Module) -> bool:
    """Whether a batch norm of `model` keeps running statistics."""
    return bool(_norms(model))


def _norms(model: nn.Module) -> list[BatchNorm]:
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


@contextmanager
def unmoved_random_numbers(model: nn.Module) -> Iterator[None]:
    """Put torch's generators, of the CPU and of the model's CUDA device, back after the block."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
