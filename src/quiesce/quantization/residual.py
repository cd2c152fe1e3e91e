"""Quantization of the additions of a network, for `Scheme(residual="quantized")`.

All readers of a tensor share one quantizer. A residual stream that both a convolution and an
addition read therefore has one grid, and its integers are not rounded again.
"""

from collections.abc import Callable

import torch
from torch import nn

from quiesce.errors import PrepareError
from quiesce.inference import Input, named_tensors
from quiesce.parallel.wrappers import module_named
from quiesce.quantization.dataflow import Dataflow, Reader, run
from quiesce.quantization.quantized_additions import Addition, quantize_block
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer, observed, unobserved
from quiesce.quantization.scheme import Scheme

Make = Callable[[str], FakeQuantizer]
"""Function from a name to a new quantizer of an operand."""


class Residuals:
    """The additions of a float model, as recorded in a forward pass.

    Raises:
        PrepareError: A pattern of the scheme matches no module that adds.
    """

    def __init__(
        self, model: nn.Module, example_input: Input, flow: Dataflow, scheme: Scheme
    ) -> None:
        self._model = model
        self._example = example_input
        scheme.check_addition_patterns(list(flow.additions))
        self._additions = {
            name: [each and scheme.selects_additions(name) for each in places]
            for name, places in flow.additions.items()
        }
        self._readers = [
            [each for each in readers if each.place is None or self._quantizes(each)]
            for readers in flow.readers
        ]
        self._expected = run(model, example_input)

    def quantize(self, make: Make) -> None:
        """Quantize all additions in place, after the layers have been quantized.

        Args:
            make: Function that creates the quantizer of an operand, used if no layer with equal
                bits reads the operand.

        Raises:
            PrepareError: Replacing the additions changes the output of the model.
        """
        found: dict[Reader, FakeQuantizer] = {}
        for readers in self._readers:
            found |= self._shared(readers, make)
        blocks = [name for name, places in self._additions.items() if any(places)]
        for name in blocks:
            places = range(len(self._additions[name]))
            additions = [_addition(found, name, place) for place in places]
            quantize_block(module_named(self._model, name), name, additions)
        for name in self._additions:
            if name not in blocks and any(_is_inside(name, block) for block in blocks):
                quantize_block(module_named(self._model, name), name, [])
        self._check_same()

    def _quantizes(self, reader: Reader) -> bool:
        return reader.place is not None and self._additions[reader.owner][reader.place]

    def _shared(self, readers: list[Reader], make: Make) -> dict[Reader, FakeQuantizer]:
        """Return the quantizers of the additions that read one tensor, shared with its layers."""
        adding = [reader for reader in readers if reader.side is not None]
        if not adding and len(readers) < 2:
            return {}
        owner, place, side = (adding or readers)[0]
        made = make(f"{owner}.additions.{place}.{side}".lstrip("."))
        layers = [module_named(self._model, each.owner) for each in readers if each.side is None]
        same = [
            layer
            for layer in layers
            if isinstance(layer, QuantizedLayer)
            and layer.input_quantizer is not None
            and layer.input_quantizer.bits == made.bits
        ]
        shared = same[0].input_quantizer if same else made
        for layer in same:
            layer.add_module("input_quantizer", shared)
        return dict.fromkeys(adding, shared or made)

    def _check_same(self) -> None:
        quantizers = [each for each in self._model.modules() if isinstance(each, FakeQuantizer)]
        with observed(dict.fromkeys(quantizers, unobserved)):
            output = run(self._model, self._example)
        pairs = zip(named_tensors(output), named_tensors(self._expected), strict=True)
        if not all(torch.equal(ours, expected) for (_, ours), (_, expected) in pairs):
            raise PrepareError(
                f"{type(self._model).__name__} adds in a way that cannot be quantized (an add_() "
                "whose result is not used?); write x = x + y there, or leave additions in float: "
                'Scheme(residual="float")'
            )


def _is_inside(name: str, block: str) -> bool:
    return name != block and (not block or name.startswith(f"{block}."))


def _addition(found: dict[Reader, FakeQuantizer], owner: str, place: int) -> Addition | None:
    left, right = (found.get(Reader(owner, place, side)) for side in ("left", "right"))
    return None if left is None or right is None else Addition(left, right)
