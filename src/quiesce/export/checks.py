"""Checks at the start of every export."""

from pathlib import Path

from torch import Tensor

from quiesce.errors import ExportError
from quiesce.quantization.describe import left_float as left_float


def check_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return the path of a file to write.

    Raises:
        ExportError: It exists and `overwrite` is False, or its folder does not exist.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        how = "--force, or overwrite=True in a program"
        raise ExportError(f"{path} exists already; give another file, or replace it ({how})")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: there is no folder {path.parent}; create it first")
    return path


def check_example(example_input: Tensor) -> None:
    """Check an example input.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It contains no image.
    """
    if not isinstance(example_input, Tensor):
        raise TypeError(f"`example_input` must be one tensor, got {type(example_input).__name__}")
    if example_input.dim() == 0 or len(example_input) == 0:
        shape = tuple(example_input.shape)
        raise ValueError(f"`example_input` must be a batch of one image or more, got shape {shape}")
