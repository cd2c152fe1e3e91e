"""History records: packing, and one step against a definition that is slow and plain."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import quiesce as qs
from quiesce.arithmetic import weight_history
from quiesce.arithmetic.weight_history import Layout

widths = st.integers(2, 8)


@dataclass
class Plain:
    """One weight, remembered in words."""

    code: int
    last_direction: int = 0
    frozen: bool = False
    unseen_flip: bool = False
    unseen_oscillation: bool = False

    def advance(self, code: int) -> tuple[bool, bool, int]:
        """Take a step; whether it flipped, whether it oscillated, code before minus after."""
        if self.frozen:
            seen = self.unseen_flip, self.unseen_oscillation, 0
            self.unseen_flip = self.unseen_oscillation = False
            return seen
        jump = self.code - code
        direction = (jump < 0) - (jump > 0)
        oscillated = direction * self.last_direction == -1
        self.code, self.last_direction = code, direction or self.last_direction
        return jump != 0, oscillated, jump

    def freeze(self, code: int) -> None:
        """Pin to `code`; what that changes is for the next step to count."""
        if not self.frozen:
            self.unseen_flip, self.unseen_oscillation, _ = self.advance(code)
            self.frozen = True


def as_tensor(code: int) -> torch.Tensor:
    return torch.tensor([float(code)])


@pytest.mark.parametrize("bits", range(2, 9))
def test_packing_keeps_every_field_of_every_record(bits: int) -> None:
    grid = qs.Grid(bits, signed=True)
    layout = Layout.of(grid)
    codes = torch.arange(grid.quant_min, grid.quant_max + 1)
    fields = torch.cartesian_prod(codes, torch.arange(3), torch.arange(2))
    code, direction, frozen = fields[:, 0], fields[:, 1], fields[:, 2].bool()
    record = weight_history.pack(code, direction, frozen, layout)
    assert record.dtype == (torch.uint8 if bits <= 4 else torch.int32)
    assert torch.equal(weight_history.code_of(record, layout).long(), code)
    assert torch.equal(weight_history.direction_of(record, layout).long(), direction)
    assert torch.equal(weight_history.is_frozen(record, layout), frozen)
    assert len(record.unique()) == len(record)


@given(bits=widths, data=st.data())
def test_steps_equal_the_plain_definition(bits: int, data: st.DataObject) -> None:
    grid = qs.Grid(bits, signed=True)
    layout = Layout.of(grid)
    codes = st.integers(grid.quant_min, grid.quant_max)
    first = data.draw(codes)
    plain = Plain(first)
    record = weight_history.pack(as_tensor(first), weight_history.STILL, False, layout)
    for code, pinned in data.draw(st.lists(st.tuples(codes, st.none() | codes), max_size=30)):
        change = weight_history.change_of(record, as_tensor(code), layout).to(torch.uint8)
        moves = weight_history.advance(record, as_tensor(code), layout)
        expected = plain.advance(code)
        assert (moves.flipped.item(), moves.oscillated.item(), moves.jump.item()) == expected
        if not change.item():  # whoever skips such a record loses nothing
            assert torch.equal(moves.record, record)
            assert expected == (False, False, 0)
        again = weight_history.changed_code(record, change, layout).to(torch.float32)
        pairs = zip(weight_history.advance(record, again, layout), moves, strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        record = moves.record
        assert record.dtype == layout.dtype
        if pinned is not None and data.draw(st.booleans()):
            record = weight_history.freeze(record, as_tensor(pinned), layout)
            plain.freeze(pinned)
        assert weight_history.code_of(record, layout).item() == plain.code
        assert weight_history.is_frozen(record, layout).item() == plain.frozen


@given(bits=widths, seed=st.integers(0, 2**32 - 1))
def test_every_record_of_a_tensor_goes_its_own_way(bits: int, seed: int) -> None:
    grid = qs.Grid(bits, signed=True)
    layout = Layout.of(grid)
    noise = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        span = (grid.quant_min, grid.quant_max + 1)
        return torch.randint(*span, (2, 3), generator=noise).float()

    whole = weight_history.pack(draw(), weight_history.STILL, False, layout)
    single = [part.clone() for part in whole.flatten().split(1)]
    for _ in range(6):
        code = draw()
        whole = weight_history.advance(whole, code, layout).record
        single = [
            weight_history.advance(part, one, layout).record
            for part, one in zip(single, code.flatten().split(1), strict=True)
        ]
    assert torch.equal(whole.flatten(), torch.cat(single))
