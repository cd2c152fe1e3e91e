"""Fused functions: the values of the functions themselves, compiled once for each kind."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._inductor.cpu_vec_isa import x86_isa_checker

from quiesce.arithmetic.fused import Fused, _trusted


class Pair(NamedTuple):
    total: Tensor
    other: Tensor | None


def affine(x: Tensor, scale: Tensor, offset: Tensor | None, factor: float) -> Tensor:
    out = x * scale * factor
    return out if offset is None else out + offset


def sums(x: Tensor, other: Tensor | None) -> Pair:
    return Pair(x.sum(), None if other is None else other * 2)


def test_free_sizes_are_compiled_once_and_what_changes_the_code_again() -> None:
    fused = Fused(affine)
    scale = torch.tensor(3.0)
    for size in (5, 64, 1000):
        x = torch.randn(size)
        assert torch.equal(fused(x, scale, None, 2.0), affine(x, scale, None, 2.0))
    assert len(fused.made) == 1
    others = [
        (torch.randn(7).double(), scale.double(), None, 2.0),
        (torch.randn(7), scale, torch.randn(7), 2.0),
        (torch.randn(7), scale, None, 4.0),
        (torch.randn(1), scale, None, 2.0),
        (torch.randn(3, 7), torch.randn(3, 1), None, 2.0),
    ]
    for args in others:
        torch.testing.assert_close(fused(*args), affine(*args))
    assert len(fused.made) == 1 + len(others)


@pytest.mark.parametrize("other", [None, torch.ones(3)])
def test_a_named_tuple_comes_back_with_what_it_lacks(other: Tensor | None) -> None:
    x = torch.arange(4.0)
    result = Fused(sums)(x, other)
    assert isinstance(result, Pair)
    assert result.total == x.sum()
    assert (result.other is None) == (other is None)


def test_arguments_are_changed_in_place() -> None:
    def add(x: Tensor, y: Tensor) -> Tensor:
        x.add_(y)
        return x.sum()

    fused = Fused(add)
    for size in (4, 9):
        x = torch.zeros(size)
        assert fused(x, torch.ones(size)) == size
        assert torch.equal(x, torch.ones(size))


def test_sizes_that_happened_to_be_equal_at_first_may_differ_later() -> None:
    """A code compiled for a square once took every matrix for a square."""
    fused = Fused(affine)
    for rows, width in ((6, 6), (6, 36), (2, 3), (3, 2)):
        x, scale = torch.randn(rows, width), torch.rand(rows, 1)
        assert torch.equal(fused(x, scale, None, 2.0), affine(x, scale, None, 2.0))
    assert len(fused.made) == 1

    def pick(rows: Tensor, table: Tensor, index: Tensor) -> Tensor:
        return rows * table[index]

    picked = Fused(pick)
    for rows, entries in ((3, 3), (3, 2), (2, 5)):
        index = torch.arange(rows) % entries
        args = torch.randn(rows), torch.randn(entries), index
        assert torch.equal(picked(*args), pick(*args))
    assert len(picked.made) == 1


def test_empty_tensors_and_other_layouts_have_code_of_their_own() -> None:
    fused = Fused(affine)
    scale = torch.tensor(3.0)
    for x in (
        torch.randn(4, 6),
        torch.randn(0, 6),
        torch.randn(6, 4).T,
        torch.randn(8, 12)[::2, ::2],
    ):
        assert torch.equal(fused(x, scale, None, 2.0), affine(x, scale, None, 2.0))


@pytest.mark.parametrize(("exit_code", "options"), [(0, {"cpp.vec_isa_ok": True}), (1, {})])
def test_a_compiler_is_trusted_with_vector_instructions_whose_flags_it_takes(
    exit_code: int, options: dict[str, bool], tmp_path: Path
) -> None:
    if "avx2" not in x86_isa_checker():
        pytest.skip("no CPU with AVX")
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-mavx2*) exit {exit_code};; esac\n')
    compiler.chmod(0o700)
    with torch._inductor.config.patch({"cpp.cxx": (str(compiler),)}):
        assert _trusted.__wrapped__() == options
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "none"),)}):
        assert _trusted.__wrapped__() == {}
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        assert _trusted.__wrapped__() == {}
