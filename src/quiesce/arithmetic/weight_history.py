"""The record of a weight between two optimizer steps, packed into one integer.

A record contains, from the low bits up:

    code        code - quant_min after the last step, in `width` bits: 4 for grids of up to 4 bits
                (records are uint8), else 8 (records are int32)
    direction   2 bits. Not frozen: the direction of the last flip, UP, DOWN or STILL (never
                flipped). Frozen: what freezing did to the code, which the next step counts: STILL
                (nothing), MOVED (a flip) or REVERSED (a flip that is an oscillation)
    frozen      1 bit

The functions are pure and elementwise, for whole tensors on an accelerator and for a few gathered
entries on a CPU. They compute in int32, the integer type that has room for every field and that
torch's compiler can vectorize on CPUs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from quiesce.arithmetic.grid import Grid

STILL, UP, DOWN = 0, 1, 2
MOVED, REVERSED = 1, 2


class Layout(NamedTuple):
    """Positions of the fields in a record, and the smallest code."""

    width: int
    quant_min: int | Tensor
    """A tensor if one compiled kernel serves every grid."""

    @classmethod
    def of(cls, grid: Grid) -> "Layout":
        """Return the layout for the codes of `grid`."""
        return cls(4 if grid.bits <= 4 else 8, grid.quant_min)

    @classmethod
    def read(cls, record: Tensor, limits: Tensor) -> "Layout":
        """Return the layout of given records, for codes of a grid that starts at limits[0]."""
        return cls(4 if record.dtype == torch.uint8 else 8, limits[0])

    @property
    def dtype(self) -> torch.dtype:
        """Integer type of a record."""
        return torch.uint8 if self.width == 4 else torch.int32


def pack(code: Tensor, direction: Tensor | int, frozen: Tensor | bool, layout: Layout) -> Tensor:
    """Return records of `layout.dtype` from codes (integral values), directions and flags."""
    low = (code - layout.quant_min).to(torch.int32)
    # products, not shifts, are vector instructions on every CPU
    record = low | (direction * 2**layout.width) | (frozen * 2 ** (layout.width + 2))
    return record.to(layout.dtype)


def code_of(record: Tensor, layout: Layout) -> Tensor:
    """Return the codes, int32 or of the type of `quant_min`."""
    return (record.to(torch.int32) & (2**layout.width - 1)) + layout.quant_min


def direction_of(record: Tensor, layout: Layout) -> Tensor:
    """Return the direction fields, int32."""
    return (record.to(torch.int32) >> layout.width) & 3


def is_frozen(record: Tensor, layout: Layout) -> Tensor:
    """Return the frozen flags, bool."""
    return (record.to(torch.int32) & (4 << layout.width)) != 0


def change_of(record: Tensor, code: Tensor, layout: Layout) -> Tensor:
    """Return what `advance` would change, in one byte, 0 for nothing: int32 of the same shape.

    Of a frozen weight it is the pending outcome of freezing. Of any other it is the last code XOR
    the new one, so that `changed_code` finds the new code without the latent weight.

    Args:
        record: Records after the last step.
        code: Integral values, the rounded latent weights, also of frozen weights.
        layout: The layout of these records.
    """
    last = record.to(torch.int32) & (2**layout.width - 1)
    moved = last ^ (code - layout.quant_min).to(torch.int32)
    return torch.where(is_frozen(record, layout), direction_of(record, layout), moved)


def changed_code(record: Tensor, change: Tensor, layout: Layout) -> Tensor:
    """Return the new codes from records and `change_of`, for `advance`; as `code_of`."""
    last = record.to(torch.int32) & (2**layout.width - 1)
    return (last ^ change.to(torch.int32)) + layout.quant_min


class Advance(NamedTuple):
    """Result of one step; every field has the shape of the records."""

    record: Tensor
    """Records after the step."""
    flipped: Tensor
    """bool: the code changed."""
    oscillated: Tensor
    """bool: the code changed against its last direction."""
    jump: Tensor
    """Code before minus code after; 0 for frozen weights, whose average is not needed."""


def advance(record: Tensor, code: Tensor, layout: Layout) -> Advance:
    """Update records by one step: compare with previous codes, record changes and directions.

    A frozen weight keeps its code. A change caused by freezing is counted once.
    """
    wide = record.to(torch.int32)
    field = wide & (3 << layout.width)  # the direction, not shifted
    frozen = is_frozen(record, layout)
    jump = torch.where(frozen, 0, code_of(record, layout) - code)
    moved = jump != 0
    heading = torch.where(jump < 0, UP, DOWN)
    against = moved & (field != 0) & (field != heading * 2**layout.width)
    after = torch.where(moved, pack(code, heading, False, layout).to(torch.int32), wide)
    return Advance(
        record=torch.where(frozen, wide - field, after).to(record.dtype),
        flipped=torch.where(frozen, field != 0, moved),
        oscillated=torch.where(frozen, field == REVERSED << layout.width, against),
        jump=jump,
    )


def freeze(record: Tensor, code: Tensor, layout: Layout) -> Tensor:
    """Return records frozen at `code`; a record that is already frozen does not change."""
    before, direction = code_of(record, layout), direction_of(record, layout)
    code = code.to(torch.int32)
    heading = torch.where(code > before, UP, DOWN)
    against = (direction != STILL) & (direction != heading)
    outcome = torch.where(code == before, STILL, torch.where(against, REVERSED, MOVED))
    pinned = pack(code, outcome, True, layout)
    return torch.where(is_frozen(record, layout), record, pinned)
