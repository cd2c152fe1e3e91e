"""Number formats of scales: the scales in use are exactly those that a file can hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quiesce.arithmetic.scale_formats import SCALE_FORMATS, in_format, largest_scale

FORMATS = pytest.mark.parametrize("name", SCALE_FORMATS)
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@FORMATS
@given(st.floats(-1e4, 1e4, width=32).filter(lambda x: abs(x) > 1e-4))
def test_the_result_is_the_nearest_number_of_the_format(name: str, value: float) -> None:
    scale = torch.tensor(value)
    rounded = in_format(scale, name)
    if name == "e8m0":
        exponent = rounded.abs().log2()
        assert exponent == exponent.round()
        assert 2**-0.5001 < rounded / scale < 2**0.5001
    else:
        assert rounded == scale.to(TORCH[name]).float()
    assert torch.equal(in_format(rounded, name), rounded)


@FORMATS
def test_the_gradient_passes_unchanged(name: str) -> None:
    scale = torch.tensor([0.013, -0.3, 7.1], requires_grad=True)
    (in_format(scale, name) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert scale.grad.tolist() == [1.0, 2.0, 3.0]


@FORMATS
def test_numbers_outside_the_range_become_its_ends(name: str) -> None:
    tiny, huge = in_format(torch.tensor([1e-45, 3e38]), name).tolist()
    assert tiny > 0
    assert huge <= largest_scale(name)
    assert torch.tensor(huge).isfinite()
