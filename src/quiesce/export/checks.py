"""What every export refuses before it begins."""

from pathlib import Path

from torch import Tensor

from quiesce.errors import ExportError
from quiesce.quantization.describe import left_float as left_float


def check_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return where a file is to be made.

    Raises:
        ExportError: It is there already and `overwrite` is False, or its folder is not.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        how = "--force, or overwrite=True in a program"
        raise ExportError(f"{path} exists already; name another, or replace it ({how})")
    if not path.parent.is_dir():
        raise ExportError(f"{path} can not be made: {path.parent} is no folder; make it first")
    return path


def check_example(example_input: Tensor) -> None:
    """Refuse an example input with which nothing can be traced.

    Raises:
        TypeError: It is no tensor.
        ValueError: It holds no image.
    """
    if not isinstance(example_input, Tensor):
        raise TypeError(f"`example_input` must be one tensor, got {type(example_input).__name__}")
    if example_input.dim() == 0 or len(example_input) == 0:
        shape = tuple(example_input.shape)
        raise ValueError(f"`example_input` must be a batch of one image or more, got shape {shape}")
