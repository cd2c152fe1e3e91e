"""Re-estimation of batch-norm statistics after quantization-aware training.

An oscillating weight changes the output of its layer at every optimizer step. Running means and
variances, averaged over recent steps, therefore fit no single network. Re-estimating them with
fixed weights removes this error. The size of the change measures the error.

Source: Nagel et al., Overcoming Oscillations in QAT, ICML 2022, arXiv:2203.11086. As in the paper,
the variance is the average of the unbiased batch variances, without the variance of the batch
means.
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
from quiesce.parallel.processes import taken, total
from quiesce.parallel.wrappers import unwrapped


@torch.no_grad()
def reestimate_batchnorm(
    model: nn.Module, batches: Iterable[Batch], count: int = 50, *, forward: Forward | None = None
) -> dict[str, Tensor]:
    """Replace the running statistics of `model` with their mean over `count` batches.

    Only batch-norm layers run in training mode: dropout is off, and ranges and trackers do not
    change. A layer that no forward pass reaches keeps its statistics. If torch.distributed is
    initialised, every rank must call this with its own batches, and all get the mean over all
    batches of all ranks. If a forward pass communicates (split weights, SyncBatchNorm), all ranks
    stop when the first has no batch left. SyncBatchNorm treats the batches of all ranks as one, as
    in training. If an error is raised, the statistics are restored.

    Args:
        model: The model. Only its buffers change, in place; modes and momenta are restored.
        batches: Batches on the device of `model`: inputs, or pairs of an input and a label; see
            `quiesce.inference`.
        count: Maximum number of batches, at least 1. All batches have equal weight.
        forward: Function called with the model and a batch, for batches of any other kind.

    Returns:
        KL(new || old) of the channel Gaussians by layer name: shape (channels,), in nats.

    Raises:
        ValueError: `count` is below 1.
        TypeError: A batch contains no tensor, or the forward takes different arguments.
        NothingToDoError: No layer has running statistics, or `batches` is empty on all ranks.
        DivergedError: A layer's new statistics are not finite.

    Examples:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> kl = qs.reestimate_batchnorm(norm, [torch.tensor([[1.0], [3.0]])])
        >>> norm.running_mean.item(), norm.running_var.item()
        (2.0, 2.0)
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1 batch, got {count}")
    model = unwrapped(model)
    norms = batch_norms(model)
    if not norms:
        raise NothingToDoError(f"{type(model).__name__} has no batch norm with running statistics")

    old = {name: buffers_of(norm) for name, norm in norms.items()}
    with inference(model), plain_average(norms.values()):
        for batch in taken(batches, count, model):
            call_on_batch(model, batch, forward)
        forwards = {name: _average_over_ranks(norm) for name, norm in norms.items()}
        if not any(forwards.values()):
            raise NothingToDoError(
                f"no batch reached a batch norm of {type(model).__name__}: `batches` is empty, or "
                "the forward does not reach them; the running statistics are unchanged"
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
        mean: Mean of the first Gaussian. All arguments broadcast against each other.
        var: Variance of the first Gaussian, above 0; otherwise the result is inf or nan.
        ref_mean: Mean of the second Gaussian.
        ref_var: Variance of the second Gaussian, above 0; otherwise the result is inf or nan.

    Returns:
        The divergence in nats, in the broadcast shape. It is at least 0 up to rounding.

    Examples:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> round(qs.gaussian_kl(0.2 * one, one, zero, one).item(), 4)
        0.02
    """
    return 0.5 * ((var + (mean - ref_mean) ** 2) / ref_var - 1 + (ref_var / var).log())


def _average_over_ranks(norm: BatchNorm) -> int:
    """Average the statistics of `norm` over the forward passes of all ranks; return their number.

    All forward passes have equal weight.
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
                "running statistics are unchanged. Look for nan or inf in the weights before it"
            )


def _moved(new: dict[str, Tensor], old: dict[str, Tensor], eps: float) -> Tensor:
    """Return KL(new || old), with `eps` added to the variances as in the layer."""
    mean, var = new["running_mean"], new["running_var"] + eps
    return gaussian_kl(mean, var, old["running_mean"], old["running_var"] + eps)
