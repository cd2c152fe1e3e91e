"""What every export refuses before it begins, and what it leaves in float."""

from pathlib import Path

from torch import Tensor, nn

from quiesce.errors import ExportError
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer


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


def left_float(model: nn.Module) -> list[str]:
    """Names of modules that multiply by float weights: neither quantized nor a norm.

    The model itself, where it is one, goes by the name of its class.
    """
    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if not isinstance(module, QuantizedLayer | FakeQuantizer)
        and any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    ]
