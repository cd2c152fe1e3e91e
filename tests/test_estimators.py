"""Estimators: what each member of the family promises, and what a new one may change."""

import inspect
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import quiesce as qs
from quiesce import estimators

MEMBERS: list[qs.Estimator] = [qs.STE()]
GRID = qs.Grid(4, signed=True)


@dataclass(frozen=True)
class FloorThatHalves(qs.Estimator):
    """Rounds down, and halves the gradient: nothing like the straight-through estimator."""

    def round(self, u: Tensor) -> Tensor:
        return u.floor()

    def gradient(self, grad: Tensor, u: Tensor, code: Tensor) -> Tensor:
        return grad * 0.5 + 0 * (u - code)


def test_every_member_is_tested() -> None:
    public = {
        value
        for value in vars(estimators).values()
        if inspect.isclass(value) and issubclass(value, qs.Estimator) and value is not qs.Estimator
    }
    assert public == {type(member) for member in MEMBERS}


def test_the_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        qs.Estimator()  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_rounds_to_integers_next_to_u(member: qs.Estimator) -> None:
    u = torch.randn(1000, dtype=torch.float64) * 5
    rounded = member.round(u)
    assert (rounded.shape, rounded.dtype) == (u.shape, u.dtype)
    assert torch.equal(rounded, rounded.round())
    assert ((rounded - u).abs() < 1).all()


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_gradient_keeps_shape_and_dtype_and_is_linear_in_grad(member: qs.Estimator) -> None:
    grad, u = torch.randn(2, 100, dtype=torch.float64)
    code = GRID.codes(u, 1.0)
    out = member.gradient(grad, u, code)
    assert (out.shape, out.dtype) == (u.shape, u.dtype)
    torch.testing.assert_close(member.gradient(3 * grad, u, code), 3 * out)


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_is_a_value_that_can_be_saved(member: qs.Estimator) -> None:
    assert pickle.loads(pickle.dumps(member)) == member
    assert hash(member) == hash(type(member)())


def test_ste_rounds_ties_to_even_and_passes_the_gradient_unchanged() -> None:
    u, grad = torch.tensor([0.5, 1.5, -0.5, 2.4]), torch.randn(4)
    assert qs.STE().round(u).tolist() == [0, 2, 0, 2]
    assert torch.equal(qs.STE().gradient(grad, u, u.round()), grad)


def test_another_estimator_decides_codes_and_gradient() -> None:
    x = torch.tensor([0.9, 1.9, -0.1, 100.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    y = qs.fake_quantize(x, scale, GRID, estimator=FloorThatHalves())
    y.sum().backward()
    assert y.tolist() == [0, 1, -1, 7]
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.5, 0.5, 0]  # clipping is not the estimator's business
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(-0.9 - 0.9 - 0.9 + 7)
