"""Batch-norm statistics, measured again once quantization-aware training is over.

A weight that oscillates moves its layer's output at every optimizer step, so running means and
variances, averaged over recent steps, describe no single network. Measuring them with the weights
held still removes that error; how far they move says how large it was.

Source: Nagel et al., Overcoming Oscillations in QAT, ICML 2022, arXiv:2203.11086. As there, the
variance is the average of the unbiased variances of the batches; the spread of the batch means is
not added to it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quiesce.errors import DivergedError, NothingToDoError
from quiesce.inference import (
    Batch,
    Forward,
    batch_norms,
    buffers_of,
    call_on_batch,
    inference,
    plain_average,
    put_back,
)
from quiesce.parallel.processes import taken, total, unwrapped
from quiesce.parallel.sync_batchnorm import over_all_processes


@torch.no_grad()
def reestimate_batchnorm(
    model: nn.Module, batches: Iterable[Batch], count: int = 50, *, forward: Forward | None = None
) -> dict[str, Tensor]:
    """Replace the running statistics of `model` by their plain average over `count` batches.

    Only batch-norm layers leave inference mode: dropout stays off, no range and no tracker moves.
    A layer that no forward reaches keeps its statistics. Where torch.distributed is initialised,
    every rank has to call this, each with its own batches, and all get the average over all
    batches of all ranks. Where a forward waits for other ranks (weights that are split,
    SyncBatchNorm), all stop with the first that has no batch left. SyncBatchNorm sees a batch of
    all ranks as one, as in training. When anything raises, the statistics are as they were.

    Args:
        model: Changed in place, its buffers only; modes and momenta are put back.
        batches: On the device of `model`: what it takes, or pairs of that and a label; see
            `quiesce.inference`.
        count: Batches to read at most, at least 1. Each weighs the same, whatever its size.
        forward: Called with the model and a batch instead, for batches of any other kind.

    Returns:
        Layer name to KL(new || old) of its channel Gaussians: shape (channels,), in nats.

    Raises:
        ValueError: `count` is below 1.
        TypeError: A batch holds no tensor, or the forward of the model takes other arguments.
        NothingToDoError: No layer keeps running statistics, or `batches` is empty on all ranks.
        DivergedError: A layer's new statistics are not finite.
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1 batch, got {count}")
    model = unwrapped(model)
    norms = batch_norms(model)
    if not norms:
        raise NothingToDoError(f"{type(model).__name__} has no batch norm with running statistics")

    old = {name: buffers_of(norm) for name, norm in norms.items()}
    with inference(model), plain_average(norms.values()), over_all_processes(model):
        for batch in taken(batches, count, model):
            call_on_batch(model, batch, forward)
        forwards = {name: _average_over_ranks(norm) for name, norm in norms.items()}
        if not any(forwards.values()):
            raise NothingToDoError(
                f"no batch reached a batch norm of {type(model).__name__}: `batches` is empty, or "
                "the forward passes them by; the running statistics are as they were"
            )
        for name, norm in norms.items():
            if not forwards[name]:
                put_back(norm, old[name])
        new = {name: buffers_of(norm) for name, norm in norms.items()}
        _check_finite(new)
    return {name: _moved(new[name], old[name], norm.eps) for name, norm in norms.items()}


def gaussian_kl(mean: Tensor, var: Tensor, ref_mean: Tensor, ref_var: Tensor) -> Tensor:
    """Return KL(N(mean, var) || N(ref_mean, ref_var)), elementwise.

    Args:
        mean: Of the first Gaussian; all four broadcast against each other.
        var: Of the first Gaussian, above 0; the result is inf or nan where it is not.
        ref_mean: Of the second Gaussian.
        ref_var: Of the second Gaussian, above 0; the result is inf or nan where it is not.

    Returns:
        The divergence in nats, at least 0 up to rounding, of the broadcast shape.
    """
    return 0.5 * ((var + (mean - ref_mean) ** 2) / ref_var - 1 + (ref_var / var).log())


def _average_over_ranks(norm: BatchNorm) -> int:
    """Average the statistics of `norm` over the forwards of all ranks; return how many there were.

    A forward weighs the same wherever it ran.
    """
    forwards = norm.get_buffer("num_batches_tracked")
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    sums = total(torch.cat([mean * forwards, var * forwards, forwards.to(mean.dtype).view(1)]))
    forwards.copy_(sums[-1])
    if forwards > 0:
        averages = (sums[:-1] / sums[-1]).chunk(2)
        for statistic, average in zip((mean, var), averages, strict=True):
            statistic.copy_(average)
    return int(forwards)


def _check_finite(statistics: dict[str, dict[str, Tensor]]) -> None:
    for name, buffers in statistics.items():
        if not all(bool(buffer.isfinite().all()) for buffer in buffers.values()):
            raise DivergedError(
                f"batch norm '{name}' met numbers that are not finite in re-estimation; the "
                "running statistics are as they were. Look for nan or inf in the weights before it"
            )


def _moved(new: dict[str, Tensor], old: dict[str, Tensor], eps: float) -> Tensor:
    """Return KL(new || old), with the variances as the layer itself divides by them."""
    mean, var = new["running_mean"], new["running_var"] + eps
    return gaussian_kl(mean, var, old["running_mean"], old["running_var"] + eps)
