"""Stores the trained network as a safetensors file whose header describes its quantization."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from quiesce.files.atomic import write_beside
from quiesce.quantization.quantized_additions import Addition
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer

VERSION = 1
"""Version of the description in the header."""

KEY = "quiesce"
"""Key of the description in the header's metadata."""


def save_network(network: nn.Module, path: Path) -> None:
    """Write the state dict of `network`, float or prepared, and its description.

    Args:
        network: Every tensor of its state dict is written, a shared tensor under each of its names.
        path: The file; written to a temporary file, then renamed.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    metadata = {"format": "pt", KEY: json.dumps(describe(network))}

    def write(beside: Path) -> None:
        try:
            save_file(tensors, beside, metadata=metadata)
        except SafetensorError as error:  # safetensors wraps the system error in its own message
            if "os error 28" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_beside(path, write, needed)


def describe(network: nn.Module) -> dict[str, Any]:
    """Return the quantization of each layer, ready for JSON.

    Returns:
        {"version": 1, "rule": ..., "layers": {name: {"weight": ..., "input": ... or None}},
        "additions": {name: {"left": ..., "right": ...}}}, where a quantizer is {"bits",
        "quant_min", "quant_max", "scale": name of its tensor, "offset": name of its tensor or
        None}, and "levels", the values of the codes, if they are not the integers. No layers means
        a float network.
    """
    layers = {
        name: {
            "weight": _describe_quantizer(module.weight_quantizer, f"{name}.weight_quantizer"),
            "input": _describe_quantizer(module.input_quantizer, f"{name}.input_quantizer"),
        }
        for name, module in _modules_of(network)
        if isinstance(module, QuantizedLayer)
    }
    additions = {
        name: {
            side: _describe_quantizer(getattr(module, side), f"{name}.{side}")
            for side in ("left", "right")
        }
        for name, module in _modules_of(network)
        if isinstance(module, Addition)
    }
    rule = "scale * clip(round_half_even(x / scale), quant_min, quant_max)"
    return {"version": VERSION, "rule": rule, "layers": layers, "additions": additions}


def _modules_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules with the names that their tensors have in a state_dict.

    torch leaves the part for activation checkpointing out of these, but not out of names.
    """
    for name, module in network.named_modules():
        parts = [part for part in name.split(".") if part != "_checkpoint_wrapped_module"]
        yield ".".join(parts), module


def _describe_quantizer(quantizer: FakeQuantizer | None, name: str) -> dict[str, Any] | None:
    if quantizer is None or quantizer.grid is None:
        return None
    levels = quantizer.grid.levels.values
    return {
        "bits": quantizer.bits,
        "quant_min": quantizer.grid.quant_min,
        "quant_max": quantizer.grid.quant_max,
        "scale": f"{name}.scale",
        "offset": None if quantizer.offset is None else f"{name}.offset",
    } | ({"levels": levels} if levels else {})
