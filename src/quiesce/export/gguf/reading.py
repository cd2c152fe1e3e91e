"""Compares a written GGUF file with the tensors that it should hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.gguf.blocks import Blocks


class Changes(NamedTuple):
    """Numbers that a file holds and that are not the trained ones."""

    codes: int
    scales: int
    floats: int


def compare_weights(path: Path, expected: Mapping[str, "np.ndarray | Blocks"]) -> Changes:
    """Read a file with the reader of the gguf package, and count what differs.

    Args:
        path: The file.
        expected: Its tensors by name.

    Raises:
        ExportError: The file lacks a tensor, or holds another type.
    """
    import gguf

    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    codes = scales = floats = 0
    for name, values in expected.items():
        kind = values.kind.name if isinstance(values, Blocks) else "F32"
        if name not in found or found[name].tensor_type.name != kind:
            raise ExportError(f"{path}: it does not hold {name} as {kind}")
        data = found[name].data
        if isinstance(values, Blocks):
            held_codes, held_scales = values.kind.unpack(data)
            codes += int(np.count_nonzero(held_codes != values.codes))
            scales += int(np.count_nonzero(held_scales != values.scales))
        else:
            floats += int(np.count_nonzero(data.reshape(values.shape) != values))
    return Changes(codes, scales, floats)
