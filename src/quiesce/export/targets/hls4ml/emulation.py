"""Runs a network in hls4ml's emulation: whole, and every layer from given codes."""

from collections.abc import Callable, Mapping

import numpy as np

from quiesce.export.biases.layer_integers import InputGrid
from quiesce.export.interface import Example
from quiesce.export.targets.hls4ml.design import write_design
from quiesce.export.targets.hls4ml.network_in_codes import InCodes, Shape
from quiesce.export.targets.hls4ml.numbers import Numbers
from quiesce.export.targets.hls4ml.project import Project
from quiesce.export.targets.hls4ml.rows import Design
from quiesce.export.verification.trained_codes import Computed, as_array


def to_codes(values: np.ndarray, grid: InputGrid) -> np.ndarray:
    """Return float32 values as codes, in float32 as in training."""
    codes = np.round(values.astype(np.float32) / grid.scale)
    return np.clip(codes, grid.low, grid.high).astype(np.int16)


def channels_last(codes: np.ndarray, shape: Shape) -> np.ndarray:
    """Return codes (batch, ...), which may be flattened, with channels last."""
    return np.moveaxis(codes.reshape(len(codes), *shape), 1, -1)


def channels_first(flat: np.ndarray, shape: Shape) -> np.ndarray:
    """Return (batch, numbers) with channels last as (batch, *shape)."""
    count = len(flat)
    return np.moveaxis(flat.reshape(count, *shape[1:], shape[0]), -1, 1)


class HlsRunner:
    """A project, and its variant that takes and gives all codes.

    Args:
        network: The network in codes.
        numbers: Its numbers.
        design: The design of the project.
        project: The project.
        make: Makes a project of another design.
    """

    def __init__(
        self,
        network: InCodes,
        numbers: Numbers,
        design: Design,
        project: Project,
        make: Callable[[Design], Project],
    ) -> None:
        self._network = network
        self._numbers = numbers
        self._design = design
        self._project = project
        self._make = make
        self._cut: tuple[Design, Project] | None = None
        self._flat = {
            layer.source.name for layer in network.layers.values() if layer.site.kind == "linear"
        }

    def check_inputs(self, example: Example) -> None:
        """Do nothing: the network was traced with these arguments."""

    def whole(self, example: Example) -> Computed:
        """Run the project."""
        codes = self._given(example)
        outputs, traced = self._project.trace(
            [self._fed(name, each) for name, each in codes.items()]
        )
        for name, layer in self._design.codes.items():
            codes[name] = self._taken(name, traced[layer])
        return Computed(codes, {self._network.output_name: self._output(outputs[-1])})

    def layers(self, example: Example, codes: Mapping[str, np.ndarray]) -> dict[str, Computed]:
        """Run every layer on `codes`."""
        if self._cut is None:
            design = write_design(self._network, self._numbers, cut=True)
            self._cut = design, self._make(design)
        design, project = self._cut
        outputs = project.run([self._fed(name, codes[name]) for name in self._network.codes])
        found = self._given(example)
        for name, flat in zip(design.codes, outputs, strict=False):
            found[name] = self._taken(name, flat)
        return {"cut": Computed(found, {self._network.output_name: self._output(outputs[-1])})}

    def _given(self, example: Example) -> dict[str, np.ndarray]:
        """Return the codes of the inputs of the network, which the project takes."""
        values = as_array(next(iter(example.tensors.values())))
        return {
            name: to_codes(values, self._network.codes[name].grid)
            for name, each in self._network.values.items()
            if each.origin is None
        }

    def _fed(self, name: str, codes: np.ndarray) -> np.ndarray:
        return channels_last(codes, self._network.values[name].shape)

    def _taken(self, name: str, flat: np.ndarray) -> np.ndarray:
        codes = channels_first(flat, self._network.values[name].shape)
        codes = np.round(codes).astype(np.int16)
        return codes.reshape(len(codes), -1) if name in self._flat else codes

    def _output(self, flat: np.ndarray) -> np.ndarray:
        output = self._network.output
        return flat if output is None else channels_first(flat, output.shape)
