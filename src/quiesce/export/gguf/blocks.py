"""Block types of GGUF: how codes and scales of a group are laid out in bytes.

    Q4_0   32 codes -8..7 and a float16 scale in 18 bytes; code i and i + 16 share a byte
    Q8_0   32 codes -128..127 and a float16 scale in 34 bytes

Source: the layout of ggml, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Codes of 2
and 3 bits are stored as Q4_0.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from quiesce.errors import ExportError
from quiesce.quantization.quantized_weight import QuantizedWeight

GROUP = 32
"""Weights per block."""


@dataclass(frozen=True, kw_only=True)
class BlockType:
    """A block type for weights of up to `bits` bits."""

    name: str
    bits: int

    def pack(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return the bytes of a matrix: uint8 (rows, bytes).

        Args:
            codes: int8 (rows, columns), columns a multiple of 32.
            scales: float16 (rows, columns / 32).
        """
        groups = codes.reshape(len(codes), -1, GROUP)
        heads = np.ascontiguousarray(scales)[..., None].view(np.uint8)
        if self.bits == 8:
            body = groups.view(np.uint8)
        else:
            shifted = (groups + 8).astype(np.uint8)
            body = shifted[..., : GROUP // 2] | (shifted[..., GROUP // 2 :] << 4)
        return np.concatenate([heads, body], axis=-1).reshape(len(codes), -1)

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes and scales of the bytes of a matrix: the inverse of `pack`."""
        size = 2 + GROUP * self.bits // 8
        blocks = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1, size)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
        body = blocks[..., 2:]
        if self.bits == 8:
            codes = body.view(np.int8)
        else:
            codes = np.concatenate([body & 15, body >> 4], axis=-1).astype(np.int8) - 8
        return codes.reshape(len(data), -1), scales


Q4_0 = BlockType(name="Q4_0", bits=4)
Q8_0 = BlockType(name="Q8_0", bits=8)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A quantized matrix of a file."""

    kind: BlockType
    codes: np.ndarray
    """int8 (rows, columns)."""
    scales: np.ndarray
    """float16 (rows, columns / 32)."""

    def reordered(self, order: Callable[[np.ndarray], np.ndarray]) -> "Blocks":
        """Return the matrix with its rows in another order; groups stay whole."""
        return replace(self, codes=order(self.codes), scales=order(self.scales))


def blocks_of(weight: QuantizedWeight) -> Blocks:
    """Return the blocks that hold a weight exactly.

    Raises:
        ExportError: The groups or the scales of the weight do not fit. The message names the layer
            and the scheme that does.
    """
    fits = weight.group_size is not None and weight.group_size % GROUP == 0
    if not fits or weight.scale_dtype != "float16":
        have = f"group_size={weight.group_size} and scale_dtype={weight.scale_dtype!r}"
        raise ExportError(
            f"{weight.name}: GGUF stores one float16 scale for each {GROUP} inputs, and this layer "
            f"has {have}; prepare it with Scheme(group_size={GROUP}, scale_dtype='float16')"
        )
    return Blocks(
        kind=Q4_0 if weight.grid.bits <= 4 else Q8_0,
        codes=weight.codes().cpu().contiguous().numpy(),
        scales=weight.scale[..., ::GROUP].cpu().numpy().astype(np.float16),
    )
