"""A network as plain arrays of integers, for hardware and runtimes of one's own.

Of each layer, y = scale * (codes * x_codes) * input_scale + bias, with x_codes = clip(round((x -
input_offset) / input_scale), low, high): codes as trained, batch norms folded into scale and bias.
A network of which that does not hold is refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from quiesce.errors import ExportError
from quiesce.export.checks import check_path, check_runs, left_float
from quiesce.export.graph.folded_graph import Folded, fold
from quiesce.export.graph.quantized_inputs import QuantizedInput
from quiesce.export.graph.weight_sites import Site, input_of
from quiesce.export.packing import DEFAULT_OPSET
from quiesce.files.atomic import write_beside
from quiesce.inference import Input

HEADER = "header"
VERSION = 1
RULE = "clip(round_half_even((x - input_offset) / input_scale), low, high)"


def export_arrays(
    model: nn.Module, path: str | Path, example_input: Input, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write codes, scales, zero points and biases of a prepared model as an .npz file.

    Arrays, for each use of a layer: `<name>.codes` int8 of the weight's shape; `<name>.scale`
    float32 (1,) or (channels,), below 0 where a batch norm turned the sign; `<name>.bias` float32
    (channels,) where there is one; `<name>.input_scale` float32 (), `<name>.input_zero_point` int8
    (), and with a learned offset `<name>.input_offset` float32 (). Of each operand of an addition
    that is on a grid: `<name>.scale`, maybe `<name>.offset`. The array `header` is JSON text: what
    each layer is, its bits, the limits of its input codes, its geometry; limits of the operands;
    under `left_float` the modules with weights that have no array here.

    Args:
        model: Prepared and calibrated; it stays as it is.
        path: The file to make.
        example_input: What the model takes.
        overwrite: Replace a file that exists.

    Returns:
        The header.

    Raises:
        ExportError: The file exists or its folder does not; the model can not be traced; or the
            arrays would not tell all that a layer computes: a batch norm is not folded, something
            stands between the grid of an input and its layer.
        NotCalibratedError: A quantizer has no scale yet.
    """
    path = check_path(path, overwrite=overwrite)
    folded = fold(model, check_runs(model, example_input), DEFAULT_OPSET)
    _refuse_batchnorms(folded)
    arrays: dict[str, np.ndarray] = {}
    layers = []
    for site in folded.sites:
        described = _describe(site)
        source = _source(site, folded)
        if source is not None:
            described["input"] = {
                "bits": source.grid.bits,
                "low": source.low,
                "high": source.high,
            }
            arrays[f"{site.name}.input_scale"] = np.asarray(source.grid.scale)
            arrays[f"{site.name}.input_zero_point"] = np.asarray(0, dtype=np.int8)
            if source.grid.offset is not None:
                arrays[f"{site.name}.input_offset"] = np.asarray(source.grid.offset)
        arrays[f"{site.name}.codes"] = site.layer.codes
        arrays[f"{site.name}.scale"] = _scale(site).astype(np.float32)
        if site.bias is not None:
            arrays[f"{site.name}.bias"] = site.bias.astype(np.float32)
        layers.append(described)
    additions = _additions(folded, arrays)
    header = {
        "version": VERSION,
        "rule": RULE,
        "layers": layers,
        "additions": additions,
        "left_float": left_float(model),
    }
    arrays[HEADER] = np.array(json.dumps(header))

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]

    write_beside(path, write)
    return header


def _refuse_batchnorms(folded: Folded) -> None:
    """Refuse a batch norm that no layer has taken up: its numbers would be in no array."""
    for node in folded.traced.graph:
        if node.op_type == "BatchNormalization":
            mean = node.inputs[3]
            full = (mean.name if mean is not None else None) or ""  # float/NAME.running_mean
            name = full.removeprefix("float/").rpartition(".")[0]
            raise ExportError(
                f"{name}: a batch norm that can not be folded into the layer before it (several "
                "read that layer, or its channels are others); export to ONNX instead"
            )


def _source(site: Site, folded: Folded) -> QuantizedInput | None:
    """What feeds a layer with codes; None for a float input."""
    marker = input_of(site)
    if site.node is None or (marker is None and site.layer.input is not None):
        lost = "its use of the weight" if site.node is None else "what it does to its input's codes"
        raise ExportError(
            f"{site.name}: {lost} (a padding mode, a computation of its own?) can not be told in "
            "plain arrays; export to ONNX instead"
        )
    return None if marker is None else folded.inputs[marker]


def _scale(site: Site) -> np.ndarray:
    """(1,) or (channels,): the groups of a transposed convolution share their scales."""
    size = site.scale.size
    return site.scale if size == 1 else np.tile(site.scale, site.layer.channels // size)


def _additions(folded: Folded, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Operands of additions that are on grids; their scales and offsets go into `arrays`."""
    names = {site.name for site in folded.sites}
    operands = []
    for source in folded.inputs.values():
        for reader in source.readers:
            if reader in names:
                continue
            grid = source.grid
            operands.append(
                {"name": reader, "bits": grid.bits, "low": source.low, "high": source.high}
            )
            arrays[f"{reader}.scale"] = np.asarray(grid.scale)
            if grid.offset is not None:
                arrays[f"{reader}.offset"] = np.asarray(grid.offset)
    return operands


def _describe(site: Site) -> dict[str, Any]:
    geometry = {}
    if site.kind == "convolution" and site.node is not None:
        for name in ("strides", "pads", "dilations", "group", "output_padding"):
            if (attribute := site.node.attributes.get(name)) is not None:
                value = attribute.value
                geometry[name] = list(value) if isinstance(value, tuple | list) else value
    return {
        "name": site.name,
        "layer": site.layer.name,
        "kind": site.node.op_type if site.kind == "convolution" and site.node else site.kind,
        "bits": site.layer.bits,
        **geometry,
        "input": None,
    }
