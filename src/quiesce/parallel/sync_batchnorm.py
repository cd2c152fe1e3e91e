"""SyncBatchNorm on any device, for passes without gradients.

The implementation of torch requires an accelerator. This one computes mean and variance over the
batches of all processes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import batch_norm

from quiesce.parallel.processes import are_many


@contextmanager
def over_all_processes(model: nn.Module) -> Iterator[None]:
    """Within the block, replace the forward of every SyncBatchNorm of `model`."""
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)] if are_many() else []
    try:
        for norm in norms:
            norm.forward = _forward(norm)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: nn.SyncBatchNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        if norm.training or mean is None or var is None:
            mean, biased, unbiased = _statistics(x, norm.process_group)
            if norm.training and norm.track_running_stats:
                _follow(norm, mean, unbiased)
            var = biased
        return batch_norm(
            x, mean.to(x.dtype), var.to(x.dtype), norm.weight, norm.bias, eps=norm.eps
        )

    return forward


def _statistics(x: Tensor, group: distributed.ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased and unbiased variance of each channel over all processes."""
    wide = x.transpose(0, 1).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    sums = torch.cat([wide.sum(1), wide.new_tensor([wide.shape[1]])])
    distributed.all_reduce(sums, group=group)
    count, mean = sums[-1], sums[:-1] / sums[-1]
    squares = (wide - mean[:, None]).square().sum(1)
    distributed.all_reduce(squares, group=group)
    return mean, squares / count, squares / (count - 1).clamp_min(1)


def _follow(norm: nn.SyncBatchNorm, mean: Tensor, var: Tensor) -> None:
    counted = norm.get_buffer("num_batches_tracked").add_(1)
    share = 1 / float(counted) if norm.momentum is None else norm.momentum
    norm.get_buffer("running_mean").lerp_(mean, share)
    norm.get_buffer("running_var").lerp_(var, share)
