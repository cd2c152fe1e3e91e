"""Number formats of scales: the scales that a container of weights can store.

Runtimes for language models store one scale per group of weights in 16 or 8 bits. A network that is
trained with float32 scales gets other codes when its scales are rounded for the file. A quantizer
with a scale format uses only scales of that format, so the file has the scales of the training.

    float32   any scale
    float16   GGUF, ONNX; normal numbers only, 6.1e-5 to 65504
    bfloat16  ExecuTorch
    e8m0      powers of two (MX formats of the Open Compute Project, MXFP4)
"""

from typing import Literal, get_args

import torch
from torch import Tensor

ScaleFormat = Literal["float32", "float16", "bfloat16", "e8m0"]
SCALE_FORMATS: tuple[str, ...] = get_args(ScaleFormat)

_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_POWERS = (-126, 127)  # exponents of normal float32 numbers; e8m0 has one more, 2^-127


def check_scale_format(name: str) -> None:
    """Raise ValueError unless `name` is one of `SCALE_FORMATS`."""
    if name not in SCALE_FORMATS:
        raise ValueError(f"scale_dtype must be one of {SCALE_FORMATS}, got {name!r}")


def largest_scale(name: ScaleFormat) -> float:
    """Return the largest scale of a format."""
    if name == "e8m0":
        return 2.0 ** _POWERS[1]
    return torch.finfo(_FLOATS.get(name, torch.float32)).max


def in_format(scale: Tensor, name: ScaleFormat) -> Tensor:
    """Return the nearest scales of a format, with the signs and the dtype of `scale`.

    A magnitude outside the range of the format becomes the smallest or largest one. For e8m0,
    "nearest" is by ratio. The gradient passes unchanged (straight-through).

    Args:
        scale: Floats per code, float32 or wider, any shape.
        name: The format.

    >>> in_format(torch.tensor([0.1, 0.3]), "e8m0")
    tensor([0.1250, 0.2500])
    """
    if name == "float32":
        return scale
    held = scale.detach()
    if name == "e8m0":
        nearest = torch.exp2(held.abs().log2().round().clamp(*_POWERS))
    else:
        limits = torch.finfo(_FLOATS[name])
        nearest = held.abs().clamp(limits.tiny, limits.max).to(_FLOATS[name])
    nearest = torch.where(held < 0, -nearest.to(held.dtype), nearest.to(held.dtype))
    return nearest + (scale - held)  # exact: the difference is 0
