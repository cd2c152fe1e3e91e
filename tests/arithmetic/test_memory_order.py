"""Tensors as one row of memory, and back."""

import pytest
import torch
from torch import Tensor

from quiesce.arithmetic.memory_order import flatten, is_dense, storage_order, unflatten

IMAGE, VOLUME = torch.arange(120).reshape(2, 3, 4, 5), torch.arange(96).reshape(2, 2, 2, 3, 4)
LAYOUTS = {
    "scalar": torch.tensor(3),
    "row": torch.arange(7),
    "contiguous": IMAGE,
    "channels last": IMAGE.to(memory_format=torch.channels_last),
    "depth-wise, channels last": IMAGE[:, :1].to(memory_format=torch.channels_last),
    "point-wise, channels last": IMAGE[:, :, :1, :1].to(memory_format=torch.channels_last),
    "channels last in three dimensions": VOLUME.to(memory_format=torch.channels_last_3d),
    "transposed": torch.arange(12).reshape(3, 4).t(),
}
every_layout = pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS)


@every_layout
def test_a_dense_tensor_is_a_view_in_the_order_of_its_memory(x: Tensor) -> None:
    x = torch.empty_like(x).copy_(x)  # dense, with the same strides
    assert is_dense(x)
    flat = flatten(x, storage_order(x))
    assert flat.shape == (x.numel(),)
    assert flat.data_ptr() == x.data_ptr()
    assert flat.is_contiguous()
    in_memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    assert torch.equal(flat, in_memory)


@every_layout
def test_back_again_it_is_the_same_tensor(x: Tensor) -> None:
    order = storage_order(x)
    back = unflatten(flatten(x, order), x, order)
    assert torch.equal(back, x)
    assert back.shape == x.shape


@every_layout
def test_tensors_of_one_layout_lie_alike(x: Tensor) -> None:
    order = storage_order(x)
    other = torch.empty_like(x, dtype=torch.float64).copy_(x * 2)
    assert torch.equal(flatten(other, order), 2.0 * flatten(x, order))


GAPS = {
    "half of each row": torch.zeros(4, 8)[:, :4],
    "every second entry": torch.zeros(4, 8)[:, ::2],
    "expanded": torch.zeros(4, 1).expand(4, 4),
}


@pytest.mark.parametrize("x", GAPS.values(), ids=GAPS)
def test_a_tensor_with_gaps_is_not_dense(x: Tensor) -> None:
    assert not is_dense(x)
