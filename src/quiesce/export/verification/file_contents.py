"""Compares the description of a file with its content and with the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import InputGrid, LayerIntegers
from quiesce.export.metadata import Description
from quiesce.export.runtime import CODES, quantized_inputs


def check_same_network(
    description: Description,
    layers: dict[str, LayerIntegers],
    grids: dict[str, InputGrid],
    where: str | Path,
) -> None:
    """Refuse a file whose layers and quantized inputs differ from those of the network."""
    exported = {each.layer for each in description.layers}
    if different := sorted(exported ^ set(layers)):
        raise ExportError(
            f"{where} belongs to another network: {different[0]} is quantized in only one of them"
        )
    if missing := [each.place for each in description.inputs if each.place not in grids]:
        raise ExportError(
            f"{where} belongs to another network: it rounds at {missing[0]}, and this one does not"
        )


def check_all_listed(
    codes: dict[str, np.ndarray], names: list[str], grids: dict[str, InputGrid], where: str | Path
) -> None:
    """Refuse a file that lists neither the codes of a quantizer nor equal codes on its grid."""
    for name in codes.keys() - set(names):
        same = [each for each in names if _grid(each, grids) == _grid(name, grids)]
        if not any(np.array_equal(codes[name], codes.get(each, ())) for each in same):
            raise ExportError(f"{where} does not list the codes of {name}; export it again")


def _grid(name: str, grids: dict[str, InputGrid]) -> InputGrid:
    """Return the grid of a location and call: "conv", "conv:2"."""
    return grids[name] if name in grids else grids[name.rpartition(":")[0]]


def wrong_weights(
    proto: Any, description: Description, layers: dict[str, LayerIntegers]
) -> list[str]:
    """Find layers whose integers in the file are not the trained codes, or are not used.

    Returns:
        One text per layer, starting with its name.
    """
    from onnx import numpy_helper

    arrays = {each.name: each for each in proto.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in proto.graph.node if node.input}
    wrong = []
    for each in description.layers:
        codes = layers[each.layer].codes
        if each.weight not in arrays:
            wrong.append(f"{each.name}: the file has no {each.weight}")
            continue
        source = f"{each.name}.weight_values"
        while source in sources:
            source = sources[source]
        if source != each.weight:
            wrong.append(f"{each.name}: its weight is not computed from {each.weight}")
            continue
        stored = numpy_helper.to_array(arrays[each.weight]).astype(np.int64)
        stored = stored.T if each.turned else stored
        if stored.shape != codes.shape:
            wrong.append(f"{each.name}: its weight has another shape in the file")
        elif count := _not_multiples(stored, codes, by_channel=each.integer):
            wrong.append(f"{each.name}: {count} weight codes are not the trained ones")
    return wrong


def _not_multiples(stored: np.ndarray, codes: np.ndarray, *, by_channel: bool) -> int:
    """Count codes that are not the trained ones times one integer per channel.

    A layer with an integer bias stores n * code (see `biases`); any n is accepted.
    """
    rows, trained = (each.reshape(len(each), -1).astype(np.int64) for each in (stored, codes))
    if not by_channel:
        return int(np.count_nonzero(rows != trained))
    wrong = 0
    for row, code in zip(rows, trained, strict=True):
        largest = int(np.abs(code).max(initial=0))
        multiples = np.arange(1, 127 // max(1, largest) + 1)[:, None]
        wrong += int(np.count_nonzero(row != multiples * code, axis=1).min())
    return wrong


def last_layers(proto: Any, description: Description) -> tuple[dict[str, str], str]:
    """Return the last layer before each quantized input, and before the outputs."""
    producer = {output: node for node in proto.graph.node for output in node.output}
    weights = {f"{each.name}.weight_values": each.name for each in description.layers}
    cuts = {name + CODES for name in quantized_inputs(description)}

    order = {each.name: place for place, each in enumerate(description.layers)}

    def last(start: str) -> str | None:
        names, seen, todo = [], set(), list(producer[start].input)
        while todo:
            value = todo.pop()
            if value in seen or value in cuts:
                continue
            seen.add(value)
            if value in weights:
                names.append(weights[value])
            elif value in producer:
                todo += producer[value].input
        return max(names, key=order.__getitem__, default=None)

    made = {}
    for name in quantized_inputs(description):
        if name + CODES not in producer:
            raise ExportError(f"the file does not compute {name + CODES}; export it again")
        made[name] = last(name + CODES) or _without_layer(name, producer)
    ends = [last(output.name) for output in proto.graph.output if output.name in producer]
    behind = [name for name in ends if name is not None]
    return made, max(behind, key=order.__getitem__, default=None) or "the output"


def _without_layer(name: str, producer: Mapping[str, Any]) -> str:
    """Describe the source of the codes of `name` if no layer computes them."""
    value = name + CODES
    while value in producer:
        node = producer[value]
        if node.op_type == "Add":
            return f"the addition read by {name}"
        value = node.input[0]
    return "the input"


def last_unit(description: Description, layers: dict[str, LayerIntegers]) -> float:
    """Return floats per accumulator unit of the last layer, or 1 without layers."""
    if not description.layers:
        return 1.0
    return unit_of(layers[description.layers[-1].layer])


def unit_of(layer: LayerIntegers) -> float:
    """Return floats per accumulator unit of a layer."""
    step = 1.0 if layer.input is None else float(layer.input.scale)
    return step * float(np.max(layer.scale))
