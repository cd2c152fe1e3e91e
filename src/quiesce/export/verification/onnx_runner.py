"""Runs an ONNX file for its verification: whole, and cut at its codes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import InputGrid
from quiesce.export.interface import IMAGES, Example
from quiesce.export.metadata import Description
from quiesce.export.runtime import CODES as SUFFIX
from quiesce.export.runtime import FED, cut_at_codes, quantized_inputs, with_codes
from quiesce.export.verification.trained_codes import Computed, as_array

Open = Callable[[Any], Any]
"""Makes a session of an onnx.ModelProto, with the methods `run` and `get_inputs` of onnxruntime."""


class OnnxRunner:
    """An ONNX file in a runtime.

    Args:
        proto: The onnx.ModelProto of the file.
        description: Its description.
        grids: Grids of the network's inputs.
        where: Name of the file in error messages.
        ways: Ways to run it, by name, such as with and without optimizations; the last one runs the
            whole file.
    """

    def __init__(
        self,
        proto: Any,
        description: Description,
        grids: Mapping[str, InputGrid],
        where: str | Path,
        ways: Mapping[str, Open],
    ) -> None:
        names = quantized_inputs(description)
        self._proto = proto
        self._names = names
        self._where = where
        self._zeros = {each.name: grids[each.place].zero_point for each in description.inputs}
        self._how = description.preprocessing
        self._ways = ways
        last = list(ways.values())[-1]
        self._file = last(proto)
        self._whole = last(with_codes(proto, names))
        self._cut: dict[Any, dict[str, Any]] = {}
        self._outputs = [output.name for output in proto.graph.output]

    def check_inputs(self, example: Example) -> None:
        """Refuse arguments that differ from the inputs of the file."""
        takes = {each.name: each.shape for each in self._file.get_inputs()}
        if missing := [name for name in takes if name not in example.tensors]:
            raise ExportError(
                f"{self._where} takes {', '.join(takes)}, and a batch gives "
                f"{', '.join(example.tensors)}: {missing[0]} is missing"
            )
        for name, shape in takes.items():
            given = example.tensors[name].shape
            fixed = [(dim, size) for dim, size in enumerate(shape) if isinstance(size, int)]
            if len(given) != len(shape) or any(given[dim] != size for dim, size in fixed):
                raise ExportError(
                    f"{self._where} takes {name} of shape ({', '.join(map(str, shape))}), and a "
                    f"batch gives {tuple(given)}; export it with these dimensions open "
                    '(dynamic={2: "height", 3: "width"})'
                )

    def whole(self, example: Example) -> Computed:
        """Run the whole file, in the last of the ways; the outputs are those of the file as it is.

        A runtime may fuse less where codes are outputs too.
        """
        feed = self._feed(example)
        outputs = self._file.run(self._outputs, feed)
        codes = self._run(self._whole, feed).codes
        return Computed(codes, dict(zip(self._outputs, outputs, strict=True)))

    def layers(self, example: Example, codes: Mapping[str, np.ndarray]) -> dict[str, Computed]:
        """Run each layer on `codes`, in each way."""
        feed = self._feed(example)
        for name in self._names:
            feed[name + FED] = (codes[name].astype(np.int16) + self._zeros[name]).astype(np.uint8)
        shapes = tuple(codes[name].shape[1:] for name in self._names)
        if shapes not in self._cut:  # of images or texts of another size
            cut = cut_at_codes(self._proto, {name: codes[name] for name in self._names})
            self._cut[shapes] = {way: opened(cut) for way, opened in self._ways.items()}
        return {way: self._run(each, feed) for way, each in self._cut[shapes].items()}

    def _run(self, session: Any, feed: dict[str, np.ndarray]) -> Computed:
        """Return outputs, and codes without zero points: int16."""
        stored = session.run([*self._outputs, *(name + SUFFIX for name in self._names)], feed)
        outputs = dict(zip(self._outputs, stored, strict=False))
        codes = {
            name: array.astype(np.int16) - self._zeros[name]
            for name, array in zip(self._names, stored[len(outputs) :], strict=True)
        }
        return Computed(codes, outputs)

    def _feed(self, example: Example) -> dict[str, np.ndarray]:
        takes = {each.name for each in self._file.get_inputs()}
        feed = {name: as_array(t) for name, t in example.tensors.items() if name in takes}
        if self._how is not None and self._how.folded:
            feed[IMAGES] = _pixels(feed[IMAGES], self._how.mean, self._how.std)
        return feed


def _pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the uint8 pixels of normalized images."""
    shape = (-1, 1, 1)
    wide = images * np.asarray(std).reshape(shape) + np.asarray(mean).reshape(shape)
    return np.clip(np.round(wide * 255), 0, 255).astype(np.uint8)
