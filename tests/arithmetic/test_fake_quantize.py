"""Fake quantization: values of the grid forward, and the gradients that it promises backward."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import quiesce as qs

CLIPS = ("range", "grid", "round")
grids = st.builds(qs.Grid, st.integers(2, 8), st.booleans())
scales = st.floats(2**-12, 64, width=32)
values = st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20).map(torch.tensor)
SIGNED = qs.Grid(3, signed=True)


def gradients(
    x: Tensor, scale: Tensor, grid: qs.Grid, upstream: Tensor, **options: object
) -> tuple[Tensor, ...]:
    """Gradients to x, to the scale and, where there is one, to the offset."""
    inputs = [x.clone().requires_grad_(), scale.clone().requires_grad_()]
    if isinstance(offset := options.pop("offset", None), Tensor):
        inputs.append(offset.clone().requires_grad_())
        options["offset"] = inputs[2]
    y = qs.fake_quantize(inputs[0], inputs[1], grid, **options)  # pyright: ignore
    return torch.autograd.grad(y, inputs, upstream)


@given(x=values, scale=scales, grid=grids)
def test_every_value_is_scale_times_a_code_of_the_grid(x, scale, grid) -> None:
    y = qs.fake_quantize(x, torch.tensor(scale), grid)
    codes = y.double() / scale
    # a product of float32 is off by half a unit in the last place
    torch.testing.assert_close(codes, codes.round(), rtol=1e-7, atol=0)
    assert (codes.round() >= grid.quant_min).all()
    assert (codes.round() <= grid.quant_max).all()
    inside = (x >= scale * grid.quant_min) & (x <= scale * grid.quant_max)
    assert ((y - x).abs()[inside] <= scale * 0.5001).all()


@given(x=values, scale=scales, grid=grids)
def test_twice_is_once(x, scale, grid) -> None:
    once = qs.fake_quantize(x, torch.tensor(scale), grid)
    assert torch.equal(qs.fake_quantize(once, torch.tensor(scale), grid), once)


@given(x=values, scale=scales, bits=st.integers(2, 8))
def test_a_signed_grid_is_symmetric_inside_its_range(x, scale, bits) -> None:
    grid = qs.Grid(bits, signed=True)
    x = x.clamp(-scale * grid.quant_max, scale * grid.quant_max)
    mirrored = qs.fake_quantize(-x, torch.tensor(scale), grid)
    assert torch.equal(mirrored, -qs.fake_quantize(x, torch.tensor(scale), grid))


@pytest.mark.parametrize("clip", CLIPS)
@given(grid=grids, seed=st.integers(0, 2**32 - 1), lsq=st.booleans())
def test_per_channel_is_per_tensor_channel_by_channel(clip, grid, seed, lsq) -> None:
    noise = torch.Generator().manual_seed(seed)
    x, upstream = torch.randn(2, 4, 3, 5, generator=noise) * 3
    scale = torch.rand(4, 1, 1, generator=noise) + 0.05
    options = {"clip": clip, "grad_scale": "lsq" if lsq else None}
    whole = (
        qs.fake_quantize(x, scale, grid, clip),
        *gradients(x, scale, grid, upstream, **options),
    )
    for channel in range(4):
        one = (x[channel], scale[channel].squeeze(), grid)
        parts = (
            qs.fake_quantize(*one, clip),
            *gradients(*one, upstream[channel], **options),
        )
        assert torch.equal(whole[0][channel], parts[0])
        assert torch.equal(whole[1][channel], parts[1])
        # the same sum, perhaps in another order
        torch.testing.assert_close(whole[2][channel].squeeze(), parts[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", CLIPS)
@given(
    u=st.floats(-40, 40),
    scale=st.floats(0.01, 10),
    sign=st.sampled_from([1, -1]),
    offset=st.none() | st.floats(-2, 2),
    grid=grids,
)
def test_gradients_equal_finite_differences_of_a_smooth_stand_in(
    clip, u, scale, sign, offset, grid
) -> None:
    """With the rounding error held constant the quantizer is piecewise linear, hence smooth.

    Inside, s*(u + held) + b is the value and its neighbourhood; outside it is s*end + b.
    """
    base = 0.0 if offset is None else offset
    args = [torch.tensor(v, dtype=torch.float64) for v in (scale * u + base, sign * scale, base)]
    u = float((args[0] - base) / scale)
    held, end = round(u) - u, min(max(round(u), grid.quant_min), grid.quant_max)
    inside = {
        "range": grid.quant_min <= u <= grid.quant_max,
        "grid": grid.quant_min <= round(u) <= grid.quant_max,
        "round": grid.quant_min < round(u) < grid.quant_max,
    }[clip]
    if clip == "range" and inside:
        held = end - u
    assume(min(abs(u - grid.quant_min), abs(u - grid.quant_max)) > 1e-3)

    def stand_in(x: Tensor, s: Tensor, b: Tensor) -> Tensor:
        s = s.abs()
        return s * ((x - b) / s + held) + b if inside else s * end + b

    options = {} if offset is None else {"offset": args[2]}
    exact = gradients(*args[:2], grid, torch.tensor(1.0), clip=clip, **options)
    for i, gradient in enumerate(exact):
        step = 1e-5 * max(1.0, abs(args[i].item())) if i != 1 else 1e-5 * scale
        up, down = ([a + step * way * (i == j) for j, a in enumerate(args)] for way in (1, -1))
        difference = (stand_in(*up) - stand_in(*down)) / (2 * step)
        # central differences of float64: about 1e-16 * |value| / step, and none of second order
        torch.testing.assert_close(gradient, difference, rtol=1e-6, atol=1e-6)


def test_clip_decides_where_the_gradient_ends() -> None:
    u = torch.tensor([-4.6, -4.4, -4.0, -3.6, -3.4, 0.0, 2.4, 2.6, 3.0, 3.4, 3.6])
    passed = {
        clip: gradients(u, torch.tensor(1.0), SIGNED, torch.ones(11), clip=clip)[0].tolist()
        for clip in CLIPS
    }
    assert passed["range"] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert passed["grid"] == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert passed["round"] == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]


def test_an_unknown_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip must be one of .*'round'.* got 'hard'"):
        qs.fake_quantize(torch.zeros(1), torch.tensor(1.0), SIGNED, clip="hard")  # pyright: ignore


def test_grad_scale_is_a_factor_on_the_gradient_of_scale_and_offset_alone() -> None:
    x, upstream = torch.randn(2, 6, 4) * 2
    scale, offset = torch.tensor(0.3), torch.tensor(0.1)
    grid = qs.Grid(4, signed=False)
    plain = gradients(x, scale, grid, upstream, offset=offset)
    for grad_scale, factor in ((0.25, 0.25), ("lsq", (24 * 15) ** -0.5)):
        scaled = gradients(x, scale, grid, upstream, offset=offset, grad_scale=grad_scale)
        assert torch.equal(scaled[0], plain[0])
        torch.testing.assert_close(scaled[1], plain[1] * factor)
        torch.testing.assert_close(scaled[2], plain[2] * factor)


def test_lsq_counts_the_elements_that_share_a_scale() -> None:
    x, upstream, scale = torch.randn(5, 7), torch.ones(5, 7), torch.full((5, 1), 0.5)
    _, plain = gradients(x, scale, SIGNED, upstream)
    _, scaled = gradients(x, scale, SIGNED, upstream, grad_scale="lsq")
    torch.testing.assert_close(scaled, plain * (7 * SIGNED.quant_max) ** -0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_stay_forward_and_backward(dtype: torch.dtype) -> None:
    x = torch.randn(10).to(dtype).requires_grad_()
    scale = torch.tensor(0.5, requires_grad=True)
    y = qs.fake_quantize(x, scale, SIGNED)
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert scale.grad is not None
    assert scale.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_of_short_floats_are_decided_in_float32(dtype: torch.dtype) -> None:
    x = torch.linspace(-40, 40, 4001).to(dtype)
    scale, grid = torch.tensor(0.3137), qs.Grid(8, signed=True)
    y = qs.fake_quantize(x, scale, grid)
    assert torch.equal(y, (scale * grid.codes(x.float(), scale)).to(dtype))
    in_short = (x / scale.to(dtype)).round().clamp(grid.quant_min, grid.quant_max)
    assert not torch.equal(in_short.float(), grid.codes(x.float(), scale))  # it does matter


def test_codes_of_float64_are_decided_in_float64() -> None:
    x = torch.tensor([0.5 + 1e-12, 0.5 - 1e-12], dtype=torch.float64)
    y = qs.fake_quantize(x, torch.tensor(1.0, dtype=torch.float64), SIGNED)
    assert y.tolist() == [1, 0]


def test_channels_last_stays() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = qs.fake_quantize(x, torch.rand(3, 1, 1) + 0.1, SIGNED)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-30, -0.5])
def test_a_scale_that_is_not_positive_gives_finite_values(scale: float, dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    learned = torch.tensor(scale, dtype=dtype)
    y = qs.fake_quantize(x, learned, SIGNED)
    assert y.isfinite().all()
    assert y[0] <= y[1] == 0 <= y[2]
    assert all(g.isfinite().all() for g in gradients(x, learned, SIGNED, torch.ones_like(x)))


def test_a_negative_scale_is_its_magnitude_with_the_gradient_turned() -> None:
    x, upstream = torch.randn(2, 50)
    scale = torch.tensor(0.4)
    grad_x, grad_scale = gradients(x, scale, SIGNED, upstream)
    turned_x, turned_scale = gradients(x, -scale, SIGNED, upstream)
    negative = qs.fake_quantize(x, -scale, SIGNED)
    assert torch.equal(negative, qs.fake_quantize(x, scale, SIGNED))
    assert torch.equal(turned_x, grad_x)
    assert torch.equal(turned_scale, -grad_scale)


def test_an_offset_is_the_value_of_code_zero() -> None:
    grid, offset = qs.Grid(2, signed=False), torch.tensor(-1.0)
    x = torch.tensor([-9.0, -1.0, -0.4, 0.1, 9.0])
    y = qs.fake_quantize(x, torch.tensor(0.5), grid, offset=offset)
    assert y.tolist() == [-1, -1, -0.5, 0, 0.5]


def test_nan_stays_and_infinity_is_clipped() -> None:
    y = qs.fake_quantize(
        torch.tensor([torch.nan, torch.inf, -torch.inf]), torch.tensor(0.5), SIGNED
    )
    assert y[0].isnan()
    assert y[1:].tolist() == [1.5, -2.0]


def test_an_empty_tensor_passes() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    qs.fake_quantize(x, scale, SIGNED, grad_scale="lsq").sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == 0
