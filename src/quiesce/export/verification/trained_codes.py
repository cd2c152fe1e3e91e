"""The codes of every quantized input of the trained network, and its outputs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quiesce.export.biases.layer_integers import input_places
from quiesce.export.graph.weight_sites import numbered
from quiesce.export.interface import Example, output_tensors
from quiesce.inference import inference
from quiesce.quantization.quantizer import FakeQuantizer

Note = Callable[[str, FakeQuantizer, Tensor], None]


class Computed(NamedTuple):
    """Codes and logits of one batch."""

    codes: dict[str, np.ndarray]
    """Name and call of a layer or addition ("conv", "conv:2") to the codes of its input: int8 or
    uint8."""
    outputs: dict[str, np.ndarray]
    """Outputs of the network, by their names in the file."""
    undecided: Mapping[str, np.ndarray] = MappingProxyType({})
    """For the integer reference: bool, whether an exact value is so near to a threshold that the
    order of a float32 sum decides its code."""


@torch.no_grad()
def run_trained(model: nn.Module, example: Example) -> Computed:
    """Run a prepared model in inference mode, and record its codes."""
    codes: dict[str, np.ndarray] = {}
    calls: Counter[str] = Counter()

    def note(layer: str, quantizer: FakeQuantizer, output: Tensor) -> None:
        codes[numbered(layer, calls)] = codes_of(quantizer, output)

    example = example.to(next(model.parameters()).device)
    with inference(model), _noting(model, note):
        outputs = output_tensors(example.run(model))
    return Computed(codes, {name: as_array(tensor) for name, tensor in outputs.items()})


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a numpy array; half precision becomes float32."""
    tensor = tensor.detach().cpu()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if half else tensor).numpy()


def codes_of(quantizer: FakeQuantizer, values: Tensor) -> np.ndarray:
    """Return the codes of a quantizer's output values: int8 or uint8, of the same shape."""
    if quantizer.offset is not None:
        values = values - quantizer.offset
    integers = torch.round(values / quantizer.step_size)
    signed = quantizer.grid is not None and quantizer.grid.signed
    return integers.to(torch.int8 if signed else torch.uint8).cpu().numpy()


class _Noted(nn.Module):
    """Replaces a quantizer at one of its locations, because several may share it."""

    def __init__(self, name: str, quantizer: FakeQuantizer, note: Note) -> None:
        super().__init__()
        self.name = name
        self.quantizer = quantizer
        self.note = note

    def forward(self, x: Tensor) -> Tensor:
        output = self.quantizer(x)
        self.note(self.name, self.quantizer, output)
        return output


@contextmanager
def _noting(model: nn.Module, note: Note) -> Iterator[None]:
    places = [(place, place.quantizer) for place in input_places(model)]
    try:
        for place, quantizer in places:
            place.owner.add_module(place.attribute, _Noted(place.name, quantizer, note))
        yield
    finally:
        for place, quantizer in places:
            place.owner.add_module(place.attribute, quantizer)
