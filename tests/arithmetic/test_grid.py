"""Grid: its ends, and the way from floats to codes."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import quiesce as qs

grids = st.builds(qs.Grid, st.integers(2, 8), st.booleans())


@pytest.mark.parametrize("bits", range(2, 9))
def test_ends_follow_from_bits(bits: int) -> None:
    signed, unsigned = qs.Grid(bits, signed=True), qs.Grid(bits, signed=False)
    assert (signed.quant_min, signed.quant_max) == (-(2**bits) // 2, 2**bits // 2 - 1)
    assert (unsigned.quant_min, unsigned.quant_max) == (0, 2**bits - 1)


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 64])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"must be 2 to 8, got {bits}"):
        qs.Grid(bits, signed=True)


@pytest.mark.parametrize("bits", [4.0, "4", None, True])
def test_bits_that_are_no_integer_are_refused(bits: Any) -> None:
    with pytest.raises(TypeError, match="must be an integer"):
        qs.Grid(bits, signed=True)


def test_is_a_value() -> None:
    grid = qs.Grid(4, signed=True)
    assert grid == qs.Grid(4, signed=True) != qs.Grid(4, signed=False)
    assert len({grid, qs.Grid(4, signed=True)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.bits = 5  # pyright: ignore[reportAttributeAccessIssue]


@given(grid=grids, u=st.floats(-300, 300, width=32), scale=st.floats(0.125, 4, width=32))
def test_code_is_the_nearest_integer_of_the_grid(grid: qs.Grid, u: float, scale: float) -> None:
    x = torch.tensor(u, dtype=torch.float64) * scale  # exact: two float32 fill a float64
    code = grid.codes(x, scale).item()
    distances = {n: abs(n - u) for n in range(grid.quant_min, grid.quant_max + 1)}
    assert code in distances
    assert distances[code] <= min(distances.values()) + 1e-12  # of the division


def test_ties_go_to_the_even_code() -> None:
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    codes = qs.Grid(4, signed=True).codes(halves, 1.0)
    assert codes.tolist() == [-2, -2, 0, 0, 2, 2]


def test_infinities_go_to_the_ends_and_nan_stays() -> None:
    codes = qs.Grid(3, signed=True).codes(torch.tensor([-torch.inf, torch.inf, torch.nan]), 0.5)
    assert codes[:2].tolist() == [-4, 3]
    assert codes[2].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_keep_dtype_and_shape_and_take_a_scale_per_channel(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=dtype)
    codes = qs.Grid(4, signed=True).codes(x, torch.tensor([[1.0], [0.25]], dtype=dtype))
    assert codes.dtype == dtype
    assert codes.tolist() == [[1, -1], [4, -4]]
