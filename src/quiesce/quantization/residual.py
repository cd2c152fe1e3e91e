"""`Scheme(residual="quantized")`: the additions of a network on grids, one grid for each tensor.

What reads one tensor shares one quantizer: a residual stream that a convolution and an addition
read is then on one grid, and its integers need no second rounding.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quiesce.errors import PrepareError
from quiesce.inference import Input, named_tensors, run
from quiesce.quantization.dataflow import Reader, watch
from quiesce.quantization.quantized_additions import Addition, quantize_block
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer

Make = Callable[[str], FakeQuantizer]
"""From a name to a new quantizer for the operand of an addition."""


class Residuals:
    """The additions of a float model, seen in a forward of it, to be put on grids.

    Args:
        model: Still float.
        example_input: What its forward takes.
    """

    def __init__(self, model: nn.Module, example_input: Input) -> None:
        self._model = model
        self._example = example_input
        self._flow = watch(model, example_input)
        self._expected = run(model, example_input)

    def quantize(self, make: Make) -> None:
        """Put all additions on grids, in place, once the layers have their quantizers.

        Args:
            make: Makes the quantizer of an operand that no layer with equal bits reads too.

        Raises:
            PrepareError: The additions can not be replaced without changing what is computed.
        """
        found: dict[Reader, FakeQuantizer] = {}
        for readers in self._flow.readers:
            found |= self._shared(readers, make)
        for name, count in self._flow.additions.items():
            additions = [_addition(found, name, place) for place in range(count)]
            quantize_block(self._model.get_submodule(name), additions)
        self._check_same()

    def _shared(self, readers: list[Reader], make: Make) -> dict[Reader, FakeQuantizer]:
        """Quantizers of the additions among the readers of one tensor; layers take the same."""
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
        try:
            for quantizer in quantizers:
                quantizer.observe = _let_through
            output = run(self._model, self._example)
        finally:
            for quantizer in quantizers:
                quantizer.observe = None
        pairs = zip(named_tensors(output), named_tensors(self._expected), strict=True)
        if not all(torch.equal(ours, expected) for (_, ours), (_, expected) in pairs):
            raise PrepareError(
                f"{type(self._model).__name__} adds in a way that can not be put on grids (an "
                "add_() whose result is dropped?); write x = x + y there, or leave additions in "
                'float: Scheme(residual="float")'
            )


def _addition(found: dict[Reader, FakeQuantizer], owner: str, place: int) -> Addition | None:
    left, right = (found.get(Reader(owner, place, side)) for side in ("left", "right"))
    return None if left is None or right is None else Addition(left, right)


def _let_through(_: Tensor) -> None:
    """A quantizer that is observed emits its input unchanged."""
