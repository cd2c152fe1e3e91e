"""First scales: each method against its formula, and tensors that there is little to measure in."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import quiesce as qs
from quiesce.arithmetic.ranges import PERCENTILE, RANGES, find_affine, find_scale, sample

SIGNED, UNSIGNED = qs.Grid(4, signed=True), qs.Grid(4, signed=False)
grids = st.builds(qs.Grid, st.integers(2, 8), st.booleans())
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def error(x: Tensor, scale: Tensor, grid: qs.Grid, offset: Tensor | float = 0.0) -> float:
    """Mean squared rounding error."""
    rounded = grid.codes(x - offset, scale) * scale + offset
    return (rounded - x).double().square().mean().item()


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("grid", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_zeros_have_scale_one(method, grid: qs.Grid) -> None:
    assert find_scale(torch.zeros(3, 4), grid, method).item() == 1
    per_channel = find_scale(torch.zeros(3, 4), grid, method, channel_dim=0)
    assert per_channel.tolist() == [[1], [1], [1]]


@pytest.mark.parametrize("method", RANGES)
@given(x=st.lists(floats, min_size=1, max_size=12).map(torch.tensor), grid=grids)
def test_any_finite_tensor_has_a_finite_positive_scale(method, x: Tensor, grid) -> None:
    scale = find_scale(x, grid, method)
    assert scale.shape == ()
    assert scale.isfinite()
    assert scale > 0


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_can_not_be_measured_has_a_finite_scale_too(method, value: float) -> None:
    assert find_scale(torch.tensor([value, 1.0]), SIGNED, method).isfinite()


@pytest.mark.parametrize("method", RANGES)
def test_one_channel_of_zeros_leaves_the_others_alone(method) -> None:
    x = torch.randn(3, 50)
    x[1] = 0
    scale = find_scale(x, SIGNED, method, channel_dim=0).flatten()
    assert scale[1] == 1
    alone = [find_scale(row, SIGNED, method) for row in x]
    torch.testing.assert_close(scale, torch.stack(alone))


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("dim", [0, 1, 3])
def test_a_scale_per_channel_is_that_of_each_slice(method, dim: int) -> None:
    x = torch.randn(4, 3, 2, 5) * torch.rand(4, 3, 2, 5)
    scale = find_scale(x, SIGNED, method, channel_dim=dim)
    assert scale.shape == tuple(size if i == dim else 1 for i, size in enumerate(x.shape))
    alone = [find_scale(part, SIGNED, method) for part in x.unbind(dim)]
    torch.testing.assert_close(scale.flatten(), torch.stack(alone))


@pytest.mark.parametrize("method", ["mse", "minmax"])
@pytest.mark.parametrize("value", [3.0, 1e-9, -3.0, 1e12])
def test_a_constant_is_met(method, value: float) -> None:
    x = torch.full((100,), value)
    grid = SIGNED if value < 0 else UNSIGNED
    scale = find_scale(x, grid, method)
    rounded = qs.fake_quantize(x, scale, grid)
    torch.testing.assert_close(rounded, x, rtol=0.01, atol=0)


@given(
    x=st.lists(st.floats(-99, 99, width=32, allow_subnormal=False), min_size=1).map(torch.tensor),
    grid=grids,
)
def test_minmax_is_the_least_scale_that_clips_nothing(x: Tensor, grid: qs.Grid) -> None:
    if not grid.signed:
        x = x.abs()
    if not x.any():
        return
    scale = find_scale(x, grid, "minmax").item()
    ends = (x / scale).aminmax()
    slack = 1e-5 * grid.quant_max
    assert ends.min >= grid.quant_min - slack
    assert ends.max <= grid.quant_max + slack
    assert ends.max >= grid.quant_max - slack or ends.min <= grid.quant_min + slack


def test_percentile_clips_one_in_a_thousand() -> None:
    x = torch.randn(20_000)
    scale = find_scale(x, SIGNED, "percentile")
    clipped = (x.abs() > scale * SIGNED.quant_max).double().mean().item()
    assert clipped == pytest.approx(1 - PERCENTILE, abs=1 / 20_000)


def test_lsq_is_twice_the_mean_magnitude_by_the_root_of_the_end() -> None:
    x = torch.randn(1000)
    expected = 2 * x.abs().mean() / 7**0.5
    torch.testing.assert_close(find_scale(x, SIGNED, "lsq"), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", ["normal", "laplace", "relu", "outlier"])
def test_mse_is_as_good_as_a_search_ten_times_finer(bits: int, shape: str) -> None:
    x = torch.randn(2000)
    if shape == "laplace":
        x = x * torch.randn(2000).abs()
    elif shape == "relu":
        x = x.relu()
    elif shape == "outlier":
        x[0] = 12.0
    grid = qs.Grid(bits, signed=shape != "relu")
    widest = x.abs().max() / grid.quant_max
    best = min(error(x, widest * i / 1200, grid) for i in range(4, 1440))
    assert error(x, qs.mse_scale(x, grid), grid) <= 1.01 * best


def test_mse_scale_follows_its_data() -> None:
    x = torch.randn(500)
    torch.testing.assert_close(qs.mse_scale(8 * x, SIGNED), 8 * qs.mse_scale(x, SIGNED))
    assert qs.mse_scale(torch.randn(6, 5, 3), SIGNED, per_channel=True).shape == (6, 1, 1)


def test_an_unsigned_grid_on_negative_data_has_scale_one() -> None:
    assert qs.mse_scale(-torch.rand(10), UNSIGNED).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_measured_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(100).to(dtype)
    scale = qs.mse_scale(x, SIGNED)
    assert scale.dtype == torch.float32
    assert torch.equal(scale, qs.mse_scale(x.float(), SIGNED))


def test_scales_have_no_gradient() -> None:
    assert not qs.mse_scale(torch.randn(10, requires_grad=True), SIGNED).requires_grad


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ranges must be one of .*'mse'.*, got 'magic'"):
        find_scale(torch.ones(2), SIGNED, "magic")  # pyright: ignore[reportArgumentType]


def test_an_offset_serves_data_that_keep_away_from_zero() -> None:
    x = torch.rand(1000) - 0.25
    scale, offset = find_affine(x, UNSIGNED)
    assert error(x, scale, UNSIGNED, offset) < error(x, qs.mse_scale(x, SIGNED), SIGNED)
    step = 1.0 / UNSIGNED.quant_max
    assert offset.item() == pytest.approx(-0.25, abs=step)
    assert scale.item() == pytest.approx(step, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_an_offset_meets_a_constant(value: float) -> None:
    scale, offset = find_affine(torch.full((10,), value), UNSIGNED)
    assert scale > 0
    assert error(torch.full((10,), value), scale, UNSIGNED, offset) == 0


@given(columns=st.integers(1, 5000), most=st.integers(1, 500))
def test_a_sample_is_even_and_of_about_the_size_asked_for(columns: int, most: int) -> None:
    chosen = sample(torch.arange(columns), most)
    spacing = chosen.diff()
    assert chosen[0] == 0
    assert (spacing == spacing[:1]).all()
    assert columns - chosen[-1] <= (spacing[0] if len(spacing) else columns)
    if columns <= most:
        assert len(chosen) == columns
    else:  # a spacing without a common factor is found soon
        assert most / 8 <= len(chosen) <= 2 * most + 1
