"""`Scheme(residual="quantized")`: the additions of a network on grids, one grid per tensor.

All readers of a tensor share one quantizer. A residual stream that a convolution and an addition
read is therefore on one grid, and its integers are not rounded again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.errors import PrepareError
from quiesce.quantization.dataflow import Reader, run, watch
from quiesce.quantization.quantized_additions import Addition, quantize_block
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer, observed, unobserved

Make = Callable[[str], FakeQuantizer]
"""Function from a name to a new quantizer of an operand."""


class Residuals:
    """The additions of a float model, as seen in a forward pass.

    Args:
        model: The float model.
        example_input: Input of its forward pass.
    """

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        self._model = model
        self._example = example_input
        self._flow = watch(model, example_input)
        self._expected = run(model, example_input)

    def quantize(self, make: Make) -> None:
        """Put all additions on grids, in place, after the layers got their quantizers.

        Args:
            make: Creates the quantizer of an operand that no layer with equal bits reads.

        Raises:
            PrepareError: Replacing the additions would change the result.
        """
        found: dict[Reader, FakeQuantizer] = {}
        for readers in self._flow.readers:
            found |= self._shared(readers, make)
        for name, count in self._flow.additions.items():
            additions = [_addition(found, name, place) for place in range(count)]
            quantize_block(self._model.get_submodule(name), additions)
        self._check_same()

    def _shared(self, readers: list[Reader], make: Make) -> dict[Reader, FakeQuantizer]:
        """Return the quantizers of the additions that read one tensor; layers share them."""
        adding = [reader for reader in readers if reader.side is not None]
        if not adding and len(readers) < 2:
            return {}
        owner, place, side = (adding or readers)[0]
        made = make(f"{owner}.additions.{place}.{side}".lstrip("."))
        layers = [self._model.get_submodule(each.owner) for each in readers if each.side is None]
        alike = [
            layer
            for layer in layers
            if isinstance(layer, QuantizedLayer)
            and layer.input_quantizer is not None
            and layer.input_quantizer.bits == made.bits
        ]
        shared = alike[0].input_quantizer if alike else made
        for layer in alike:
            layer.add_module("input_quantizer", shared)
        return dict.fromkeys(adding, shared or made)

    def _check_same(self) -> None:
        quantizers = [each for each in self._model.modules() if isinstance(each, FakeQuantizer)]
        with observed(dict.fromkeys(quantizers, unobserved)):
            output = run(self._model, self._example)
        if isinstance(output, Tensor) and not torch.equal(output, self._expected):
            raise PrepareError(
                f"{type(self._model).__name__} adds in a way that can not be quantized (an add_() "
                "whose result is not used?); write x = x + y there, or leave additions in float: "
                'Scheme(residual="float")'
            )


def _addition(found: dict[Reader, FakeQuantizer], owner: str, place: int) -> Addition | None:
    left, right = (found.get(Reader(owner, place, side)) for side in ("left", "right"))
    return None if left is None or right is None else Addition(left, right)
