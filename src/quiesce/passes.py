"""The passes that trackers and cures make over a latent weight, as pure tensor functions.

Every one reads each weight once. `scale` is above 0 and broadcasts to the latent; `limits` are
(quant_min, quant_max) as a tensor, so that one compiled kernel serves every grid; `records` have
the latent's shape (see `quiesce.history`).
"""

import torch
from torch import Tensor

from quiesce import history
from quiesce.history import Layout


def rounded(latent: Tensor, scale: Tensor, limits: Tensor) -> Tensor:
    """Codes of the latents as if nothing were frozen: integral float32."""
    return torch.round(latent.float() / scale).clamp(limits[0], limits[1])


def out_of_date(
    latent: Tensor, scale: Tensor, limits: Tensor, records: Tensor, layout: Layout
) -> Tensor:
    """Whether a record does not describe its latent any more: bool."""
    return history.needs_update(records, rounded(latent, scale, limits), layout)


def settle(
    latent: Tensor, scale: Tensor, limits: Tensor, records: Tensor, layout: Layout
) -> Tensor:
    """Put frozen latents back on scale * code, in place; then as `out_of_date`."""
    stale = out_of_date(latent, scale, limits, records, layout)
    pinned = (scale * history.code_of(records, layout)).to(latent.dtype)
    latent.copy_(torch.where(history.is_frozen(records, layout), pinned, latent))
    return stale


def residual(
    latent: Tensor, scale: Tensor, limits: Tensor, records: Tensor, layout: Layout
) -> Tensor:
    """Latent minus quantized value inside the range, 0 outside and where frozen: float32."""
    wide = latent.float()
    off_grid = wide - scale * rounded(latent, scale, limits)
    inside = (wide >= scale * limits[0]) & (wide <= scale * limits[1])
    return torch.where(inside & ~history.is_frozen(records, layout), off_grid, 0.0)


def pull(latent: Tensor, scale: Tensor, limits: Tensor, records: Tensor, layout: Layout) -> Tensor:
    """Dampening's sum of squared residuals: a scalar."""
    return residual(latent, scale, limits, records, layout).square().sum()


def pull_gradient(
    factor: Tensor,
    latent: Tensor,
    scale: Tensor,
    limits: Tensor,
    records: Tensor,
    layout: Layout,
) -> Tensor:
    """`factor`, a scalar, times the residual, in the dtype of the latent."""
    return (factor * residual(latent, scale, limits, records, layout)).to(latent.dtype)
