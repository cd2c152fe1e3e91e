"""The numbers m and b of a network in codes."""

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.biases.thresholds import Outputs
from quiesce.export.targets.hls4ml.fixed_point import (
    MOST_FRACTION,
    Affine,
    search_addition,
    search_layer,
)
from quiesce.export.targets.hls4ml.network_in_codes import Addition, InCodes, Layer, Values


class Numbers:
    """The integers of m and b, searched once for all designs of a network."""

    def __init__(self, network: InCodes) -> None:
        self._network = network
        self._found: dict[str, Affine] = {}

    def of(self, name: str, values: Values) -> Affine:
        """Return m and b of the codes `name`, proven over everything that is reachable.

        Raises:
            ExportError: No numbers give the trained codes.
        """
        if name not in self._found:
            outputs = self._network.outputs_of(name)
            if isinstance(values.origin, Layer):
                site = values.origin.site
                found = search_layer(
                    site.per_channel,
                    values.origin.bias,
                    site.channel_codes,
                    values.origin.inputs,
                    outputs,
                )
            else:
                found = search_addition(*_operands(values), outputs)
            if found is None:
                raise ExportError(
                    f"{name}: no acc*m + b with at most {MOST_FRACTION} fractional bits gives its "
                    "codes; a batch norm with a very small variance may cause that: train longer, "
                    "or export to ONNX"
                )
            self._found[name] = found
        return self._found[name]


def exact_terms(values: Values) -> tuple[list[np.ndarray], np.ndarray, list[float]]:
    """Return scales and bias of the origin of values, float64, and the largest terms."""
    origin = values.origin
    if isinstance(origin, Layer):
        ends = np.maximum(np.abs(origin.reach[0]), np.abs(origin.reach[1]))
        return [origin.unit], origin.bias, [float(ends.max(initial=0))]
    steps, operands = _operands(values)
    largest = [float(max(abs(each.low), abs(each.high))) for each in operands]
    return [np.array([step]) for step in steps], np.zeros(1), largest


def largest_value(values: Values) -> float:
    """Return an upper limit of the absolute values, in floats, before the activation."""
    scales, bias, largest = exact_terms(values)
    terms = (np.abs(scale) * end for scale, end in zip(scales, largest, strict=True))
    return float(np.max(np.abs(bias) + sum(terms)))


def _operands(values: Values) -> tuple[tuple[float, float], tuple[Outputs, Outputs]]:
    """Return the steps and the grids of both operands of an addition."""
    origin = values.origin
    if not isinstance(origin, Addition):
        raise ExportError("the network rounds its input twice; quantize it once")
    pair = (origin.left, origin.right)
    left, right = (Outputs(each.grid.scale, each.low, each.high) for each in pair)
    return (float(left.scale), float(right.scale)), (left, right)
