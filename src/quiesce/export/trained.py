"""What the trained network computes: the codes of every quantized input, and the logits."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quiesce.export.sites import numbered
from quiesce.layers import QuantizedLayer
from quiesce.modes import inference
from quiesce.quantizer import FakeQuantizer


class Computed(NamedTuple):
    """Of one batch."""

    codes: dict[str, np.ndarray]
    """Quantized input, by name and call ("conv", "conv:2"), to its codes: int8 or uint8."""

    logits: np.ndarray
    """(batch, ...), floats."""


@torch.no_grad()
def run_trained(model: nn.Module, images: Tensor) -> Computed:
    """Run a prepared model as it is, in inference mode, and note the codes it uses.

    Args:
        model: Prepared and calibrated; its modes come back.
        images: (batch, ...), on the device of `model`.
    """
    codes: dict[str, np.ndarray] = {}
    calls: Counter[str] = Counter()

    def note(layer: str, quantizer: FakeQuantizer, output: Tensor) -> None:
        codes[numbered(layer, calls)] = codes_of(quantizer, output)

    with inference(model), _noting(model, note):
        logits = model(images)
    return Computed(codes, logits.float().cpu().numpy())


def codes_of(quantizer: FakeQuantizer, values: Tensor) -> np.ndarray:
    """The codes whose values a quantizer has emitted: int8 or uint8, of the same shape."""
    if quantizer.offset is not None:
        values = values - quantizer.offset
    integers = torch.round(values / quantizer.step_size)
    signed = quantizer.grid is not None and quantizer.grid.signed
    return integers.to(torch.int8 if signed else torch.uint8).cpu().numpy()


@contextmanager
def _noting(model: nn.Module, note: Any) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer) and module.input_quantizer is not None:
            hook = _hook(name, note)
            handles.append(module.input_quantizer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, note: Any) -> Any:
    return lambda quantizer, _, output: note(name, quantizer, output)
