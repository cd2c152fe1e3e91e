"""Exports a network as plain arrays of integers, for other hardware and runtimes.

For each layer, y = scale * (codes * x_codes) * input_scale + bias, with x_codes = clip(round((x -
input_offset) / input_scale), low, high). Codes are as trained; batch norms are folded into scale
and bias. A network that cannot be written in this form is refused.
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
from quiesce.parallel.wrappers import without_wrappers
from quiesce.quantization.ties import EMBEDDINGS

HEADER = "header"
VERSION = 1
RULE = "clip(round_half_even((x - input_offset) / input_scale), low, high)"


def export_arrays(
    model: nn.Module, path: str | Path, example_input: Input, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write codes, scales, zero points and biases of a prepared model as an .npz file.

    The arrays for each use of a layer are `<name>.codes`, int8 in the shape of the weight;
    `<name>.scale`, float32 (1,) or (channels,), negative where a batch norm changed the sign;
    `<name>.bias`, float32 (channels,), if there is one; `<name>.input_scale`, float32 ();
    `<name>.input_zero_point`, int8 (); and with a learned offset `<name>.input_offset`, float32 ().
    The arrays for each operand of an addition on a grid are `<name>.scale` and, with an offset,
    `<name>.offset`. The array `header` is a JSON text with the kind, bits, geometry and limits of
    input codes of each layer; under `shared_with`, the layer that has the same weight; the limits
    of the operands; and under `left_float`, the modules with weights that have no arrays.

    Args:
        model: A prepared and calibrated model, or an AveragedModel of one; it does not change.
        path: The file to write.
        example_input: An example of the model's input.
        overwrite: Replace an existing file.

    Returns:
        The header.

    Raises:
        ExportError: The file exists or its folder does not; the model cannot be traced; or the
            arrays would not describe a layer completely: a batch norm is not folded, or an operator
            is between the grid of an input and its layer.
        NotCalibratedError: A quantizer has no scale yet.
    """
    path, model = check_path(path, overwrite=overwrite), without_wrappers(model)
    folded = fold(model, check_runs(model, example_input), DEFAULT_OPSET)
    _refuse_groups(folded)
    _refuse_batchnorms(folded)
    arrays: dict[str, np.ndarray] = {}
    layers = []
    embeddings = {n for n, module in model.named_modules() if isinstance(module, EMBEDDINGS)}
    for site in folded.sites:
        described = _describe(site)
        if site.layer.name in embeddings:
            described["kind"] = "embedding"
        source = None if site.layer.name in embeddings else _source(site, folded)
        if source is not None:
            described["input"] = {"bits": source.grid.bits, "low": source.low, "high": source.high}
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


def _refuse_groups(folded: Folded) -> None:
    for site in folded.sites:
        if site.layer.group_size is not None:
            raise ExportError(
                f"{site.name} has one scale per group of {site.layer.group_size} inputs, and these "
                "arrays hold one per channel; export it to ONNX, or prepare it with group_size=None"
            )


def _refuse_batchnorms(folded: Folded) -> None:
    """Refuse a batch norm that was not folded, because no array would contain it."""
    for node in folded.traced.graph:
        if node.op_type == "BatchNormalization":
            mean = node.inputs[3]
            full = (mean.name if mean is not None else None) or ""  # float/NAME.running_mean
            name = full.removeprefix("float/").rpartition(".")[0]
            raise ExportError(
                f"{name}: this batch norm cannot be folded into the layer before it (the layer "
                "has other readers, or other channels); export to ONNX instead"
            )


def _source(site: Site, folded: Folded) -> QuantizedInput | None:
    """Return the quantized input of a layer, or None for a float input."""
    marker = input_of(site)
    if site.node is None or (marker is None and site.layer.input is not None):
        lost = "its use of the weight" if site.node is None else "what it does with its input"
        raise ExportError(
            f"{site.name}: {lost} (a padding mode, another computation?) cannot be written as "
            "plain arrays; export to ONNX instead"
        )
    return None if marker is None else folded.inputs[marker]


def _scale(site: Site) -> np.ndarray:
    """Return (1,) or (channels,): the groups of a transposed convolution share their scales."""
    size = site.scale.size
    return site.scale if size == 1 else np.tile(site.scale, site.layer.channels // size)


def _additions(folded: Folded, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Describe the operands of additions on grids, and add their scales and offsets to `arrays`."""
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
        "shared_with": None
        if site.layer.shared_with == site.layer.name
        else site.layer.shared_with,
        "kind": site.node.op_type if site.kind == "convolution" and site.node else site.kind,
        "bits": site.layer.bits,
        **geometry,
        "input": None,
    }
