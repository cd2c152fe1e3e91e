"""Initial scales computed from data.

    mse         the step with the smallest mean squared rounding error; a search, the default
    minmax      the largest magnitude is at the end of the grid
    percentile  the 99.9th percentile of magnitudes is at the end; larger values are clipped
    lsq         2 * mean|x| / sqrt(largest level), arXiv:1902.08153

If all values are zero, the scale is 1.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.scale_formats import ScaleFormat, in_format

Range = Literal["mse", "minmax", "percentile", "lsq"]
RANGES: tuple[str, ...] = get_args(Range)
PERCENTILE = 0.999
_COARSE, _FINE = 120, 24
_SEARCHED = 2**18  # values per row in a search; more change the result by less than 1 %


def mse_scale(x: Tensor, grid: Grid, per_channel: bool = False) -> Tensor:
    """Return the scale with the smallest mean squared rounding error by coarse and fine search.

    Args:
        x: Floats. With `per_channel`, the first dimension is the channel dimension.
        grid: The codes. An unsigned grid rounds negative values to 0.
        per_channel: One scale per slice x[i].

    Returns:
        A scalar tensor, or shape (channels, 1, ..., 1) with as many dimensions as `x`.

    Examples:
        >>> scale = qs.mse_scale(torch.tensor([-1.0, 0.0, 0.5]), qs.Grid(2, signed=True))
        >>> round(scale.item(), 2)
        0.5
    """
    return find_scale(x, grid, "mse", 0 if per_channel else None)


def find_scale(
    x: Tensor,
    grid: Grid,
    method: Range,
    channel_dim: int | None = None,
    scale_dtype: ScaleFormat = "float32",
) -> Tensor:
    """Return the scale by one of the methods above.

    Args:
        x: Floats.
        grid: The codes and their levels.
        method: One of `RANGES`.
        channel_dim: Dimension with one scale per index, or None for one scale.
        scale_dtype: Number format in which "mse" compares scales. The result is not rounded.

    Returns:
        A scalar tensor, or one broadcastable to `x` with size 1 outside `channel_dim`.

    Raises:
        ValueError: `method` is unknown.
    """
    check_range(method)
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    rows = x.reshape(1, -1) if channel_dim is None else x.transpose(0, channel_dim).flatten(1)
    scale = _mse(rows, grid, scale_dtype) if method == "mse" else _RULES[method](rows, grid)
    scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)
    if channel_dim is None:
        return scale.reshape(())
    return scale.reshape([-1 if dim == channel_dim else 1 for dim in range(x.dim())])


def find_affine(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return scale and offset (LSQ+) with the smallest squared error of 144 sub-ranges of `x`.

    Args:
        x: Floats, any shape.
        grid: An unsigned grid; its code 0 has the value of the offset.

    Returns:
        Scalar tensors: floats per code, and the value of code 0.
    """
    rows = sample(x.detach().flatten().float(), _SEARCHED)
    low, high = rows.min(), rows.max()
    best, least = (torch.ones_like(low), low), torch.inf
    if low == high:
        return best
    shares = torch.linspace(0, 0.4, 12).tolist()
    for cut_low in shares:
        for cut_high in shares:
            offset = low + cut_low * (high - low)
            scale = (high - cut_high * (high - low) - offset) / grid.quant_max
            error = (
                (grid.codes(rows - offset, scale) * scale + offset - rows).square().mean().item()
            )
            if error < least:
                best, least = (scale, offset), error
    return best


def sample(x: Tensor, most: int) -> Tensor:
    """Return about `most` evenly spread columns of `x`, the same ones each time.

    Args:
        x: Shape (..., columns).
        most: Number of columns, at least 1.

    Returns:
        Shape (..., fewer columns). The spacing and the number of columns have no common factor, so
        the sample is not aligned with channels or rows.
    """
    columns = x.shape[-1]
    spacing = max(1, columns // most)
    while math.gcd(spacing, columns) > 1:
        spacing += 1
    return x[..., ::spacing]


def check_range(method: str) -> None:
    """Raise ValueError unless `method` is one of `RANGES`."""
    if method not in RANGES:
        raise ValueError(f"ranges must be one of {RANGES}, got {method!r}")


def _minmax(rows: Tensor, grid: Grid) -> Tensor:
    high = rows.amax(1).clamp_min(0) / grid.highest
    if grid.lowest >= 0:
        return high
    return torch.maximum(high, rows.amin(1).clamp_max(0) / grid.lowest)


def _percentile(rows: Tensor, grid: Grid) -> Tensor:
    rank = max(1, round(PERCENTILE * rows.shape[1]))
    return rows.abs().kthvalue(rank, dim=1).values / grid.highest


def _lsq(rows: Tensor, grid: Grid) -> Tensor:
    return 2 * rows.abs().mean(1) / grid.highest**0.5


def _mse(rows: Tensor, grid: Grid, scale_dtype: ScaleFormat) -> Tensor:
    """Search 1/120 .. 1.2 of the min-max scale, then between the neighbours of the best."""
    widest = _minmax(rows, grid)
    rows = sample(rows, _SEARCHED)
    coarse = torch.linspace(1 / _COARSE, 1.2, _COARSE, device=rows.device)
    best = _least(rows, grid, widest, coarse.expand(len(rows), -1), scale_dtype)
    reach = torch.linspace(-1, 1, _FINE, device=rows.device) * (coarse[1] - coarse[0])
    return widest * _least(rows, grid, widest, best[:, None] + reach, scale_dtype)


def _least(
    rows: Tensor, grid: Grid, widest: Tensor, factors: Tensor, scale_dtype: ScaleFormat
) -> Tensor:
    """Return the best factor of `widest` for each row; factors: (rows, candidates)."""
    best, least = factors[:, 0].clone(), rows.new_full((len(rows),), torch.inf)
    for factor in factors.unbind(1):
        scale = in_format((widest * factor)[:, None], scale_dtype)
        error = (grid.values(grid.codes(rows, scale), scale) - rows).square().sum(1)
        better = (error < least) & (factor > 0)
        best, least = torch.where(better, factor, best), torch.where(better, error, least)
    return best


_RULES = {"minmax": _minmax, "percentile": _percentile, "lsq": _lsq}
