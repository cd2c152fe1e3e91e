"""What is remembered of each weight between two optimizer steps, packed into one small integer.

A record holds, from the low bits up:

    code        code - quant_min as of the last step; `width` bits: 4 for grids of up to 4 bits
                (records are uint8), else 8 (records are int32)
    direction   2 bits. Weight free: which way its code last went, UP, DOWN or STILL (never
                moved). Weight frozen: what freezing did to the code, for the next step to
                count: STILL (nothing), MOVED (a flip) or REVERSED (a flip that is an oscillation)
    frozen      1 bit: the code is pinned for good

The functions are pure and elementwise, so that the same definition serves whole tensors on an
accelerator and a handful of gathered entries on a CPU. They compute in int32: of the integer
types that torch's compiler turns into vector instructions on CPUs the one that holds every field.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from quiesce.arithmetic.grid import Grid

STILL, UP, DOWN = 0, 1, 2
MOVED, REVERSED = 1, 2


class Layout(NamedTuple):
    """Where the fields of a record lie, and where its codes begin."""

    width: int
    quant_min: int | Tensor
    """As a tensor where one compiled kernel is to serve every grid."""

    @classmethod
    def of(cls, grid: Grid) -> "Layout":
        """Layout for the codes of `grid`."""
        return cls(4 if grid.bits <= 4 else 8, grid.quant_min)

    @classmethod
    def read(cls, record: Tensor, limits: Tensor) -> "Layout":
        """Layout of given records, for codes of a grid that begins at limits[0]."""
        return cls(4 if record.dtype == torch.uint8 else 8, limits[0])

    @property
    def dtype(self) -> torch.dtype:
        """Integer type that a record fits into."""
        return torch.uint8 if self.width == 4 else torch.int32


def pack(code: Tensor, direction: Tensor | int, frozen: Tensor | bool, layout: Layout) -> Tensor:
    """Records of `layout.dtype` from codes (integral values), directions and flags."""
    low = (code - layout.quant_min).to(torch.int32)
    # products, not shifts: those are vector instructions on every CPU
    record = low | (direction * 2**layout.width) | (frozen * 2 ** (layout.width + 2))
    return record.to(layout.dtype)


def code_of(record: Tensor, layout: Layout) -> Tensor:
    """Codes of the same shape: int32, or as a tensor `quant_min` is."""
    return (record.to(torch.int32) & (2**layout.width - 1)) + layout.quant_min


def direction_of(record: Tensor, layout: Layout) -> Tensor:
    """Direction fields, as int32 of the same shape."""
    return (record.to(torch.int32) >> layout.width) & 3


def is_frozen(record: Tensor, layout: Layout) -> Tensor:
    """Frozen flags: bool of the same shape."""
    return (record.to(torch.int32) & (4 << layout.width)) != 0


def needs_update(record: Tensor, code: Tensor, layout: Layout) -> Tensor:
    """Whether `advance` would change anything: bool of the same shape.

    Args:
        record: Records as of the last step.
        code: Integral values, the codes of the latents now, whatever is frozen.
        layout: Of these records.
    """
    moved = code_of(record, layout) != code
    pending = (record.to(torch.int32) & (3 << layout.width)) != 0  # a direction other than STILL
    return torch.where(is_frozen(record, layout), pending, moved)


class Advance(NamedTuple):
    """What one step did; every field has the shape of the records."""

    record: Tensor
    """Records after the step."""
    flipped: Tensor
    """bool: the code changed."""
    oscillated: Tensor
    """bool: it changed against its last direction."""
    jump: Tensor
    """Code before minus code after; 0 for frozen weights, whose average is done with."""


def advance(record: Tensor, code: Tensor, layout: Layout) -> Advance:
    """Take one step: compare with the codes before, see which way they went, remember.

    A frozen weight keeps its code; it counts once more if freezing itself moved it.
    """
    wide = record.to(torch.int32)
    field = wide & (3 << layout.width)  # the direction, where it lies
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
    """Records pinned to `code`; a record that is frozen already stays as it is."""
    before, direction = code_of(record, layout), direction_of(record, layout)
    code = code.to(torch.int32)
    heading = torch.where(code > before, UP, DOWN)
    against = (direction != STILL) & (direction != heading)
    outcome = torch.where(code == before, STILL, torch.where(against, REVERSED, MOVED))
    pinned = pack(code, outcome, True, layout)
    return torch.where(is_frozen(record, layout), record, pinned)
