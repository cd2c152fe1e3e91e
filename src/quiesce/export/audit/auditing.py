"""Compares a file with the trained network: codes, scales, biases, and what they do to outputs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quiesce.errors import ExportError
from quiesce.export.audit.file_layers import layers_of
from quiesce.export.audit.values import FileLayer
from quiesce.export.checks import check_runs
from quiesce.export.graph.folded_graph import fold
from quiesce.export.graph.weight_sites import Site
from quiesce.export.interface import Example
from quiesce.export.packing import DEFAULT_OPSET
from quiesce.export.verification.outputs import Outputs, class_output, classes_of, largest_error
from quiesce.export.verification.trained_codes import run_trained
from quiesce.inference import Input
from quiesce.parallel.wrappers import without_wrappers
from quiesce.text_table import table

SAME = 1e-6
"""Relative difference of a scale or of a bias that float32 explains."""


@dataclass(frozen=True, kw_only=True)
class FileLayerAudit:
    """What a file holds for one layer, beside the trained network."""

    name: str
    """Name of the layer, with ":2" and so on for further calls."""
    weights: int
    """Number of weights."""
    codes_changed: int
    """Weights whose code is not the trained one, times one integer for each channel."""
    scales: int
    """Output channels."""
    scales_changed: int
    """Channels whose floats per code differ by more than 1e-6 of them, batch norms folded."""
    largest_scale: float
    """Largest difference of a scale, as a share of it."""
    biases_changed: int
    """Channels whose bias differs by more than 1e-6 of it, batch norms folded."""
    largest_bias: float
    """Largest difference of a bias, in accumulator units of the layer."""
    error: float
    """Largest change of an output, as a share of the largest output, if this layer alone has the
    numbers of the file."""
    classes_changed: int | None
    """Inputs of which the top class then changes; None without classes."""

    @property
    def equal(self) -> bool:
        """Whether nothing changed."""
        return not (self.codes_changed or self.scales_changed or self.biases_changed)


@dataclass(frozen=True)
class FileAudit:
    """What a file holds beside the trained network; prints as a table of the layers."""

    layers: tuple[FileLayerAudit, ...]

    @property
    def changed(self) -> int:
        """Weight codes of all layers that are not the trained ones."""
        return sum(layer.codes_changed for layer in self.layers)

    @property
    def equal(self) -> bool:
        """Whether all codes, scales and biases are the trained ones."""
        return all(layer.equal for layer in self.layers)

    def __str__(self) -> str:
        total = sum(layer.weights for layer in self.layers)
        scales = sum(layer.scales_changed for layer in self.layers)
        biases = sum(layer.biases_changed for layer in self.layers)
        channels = sum(layer.scales for layer in self.layers)
        head = (
            f"{self.changed} of {total} codes, {scales} of {channels} scales and {biases} of "
            f"{channels} biases changed"
        )
        rows = [("layer", "codes", "scales", "biases", "by units", "output %", "classes")]
        rows += [
            (
                each.name,
                f"{each.codes_changed}",
                f"{each.scales_changed}",
                f"{each.biases_changed}",
                f"{each.largest_bias:.3g}",
                f"{100 * each.error:.2g}",
                "-" if each.classes_changed is None else f"{each.classes_changed}",
            )
            for each in self.layers
            if not each.equal
        ]
        return f"{head}\n{table(rows)}" if len(rows) > 1 else head


def audit_file(model: nn.Module, path: str | Path, example_input: Input) -> FileAudit:
    """Compare the numbers in a file with those of the trained network.

    The file may come from quiesce or from any other tool. Its layers are matched by their order and
    their shapes. Batch norms are folded on both sides.

    Args:
        model: A prepared and trained model; it does not change.
        path: An ONNX file with QuantizeLinear and DequantizeLinear, or with the Quant nodes of
            QONNX, or a .tflite file.
        example_input: A batch of real inputs, on which the change of the outputs is measured.

    Raises:
        ExportError: The file is missing, damaged, or has no such layer.
        MissingExtraError: The package that reads the file is not installed.
    """
    model = without_wrappers(model)
    example = check_runs(model, example_input)
    found = layers_of(Path(path))
    sites = fold(model, example, DEFAULT_OPSET).sites
    outputs = run_trained(model, example).outputs
    return FileAudit(
        tuple(
            _audit(model, example, outputs, site, layer)
            for site, layer in _matched(sites, found, path)
        )
    )


def _matched(
    sites: Sequence[Site], found: Sequence[FileLayer], path: str | Path
) -> list[tuple[Site, FileLayer]]:
    """Return each site with its layer: the next one in the file with the same shape."""
    left = list(found)
    pairs = []
    for site in sites:
        place = next(
            (i for i, each in enumerate(left) if each.integers.shape == site.layer.codes.shape),
            None,
        )
        if place is None:
            shape = tuple(site.layer.codes.shape)
            raise ExportError(
                f"{path} has no layer with the weight of {site.name}, of shape {shape}; is it of "
                "this network?"
            )
        pairs.append((site, left[place]))
        del left[: place + 1]
    return pairs


def _audit(
    model: nn.Module, example: Example, outputs: Outputs, site: Site, layer: FileLayer
) -> FileLayerAudit:
    axis = 1 if site.layer.transposed else 0
    codes = np.moveaxis(site.layer.codes.astype(np.float64), axis, 0).reshape(-1, _rest(site, axis))
    integers = np.moveaxis(layer.integers, axis, 0).reshape(codes.shape)
    steps = np.moveaxis(layer.steps, axis, 0).reshape(codes.shape)
    scale = site.per_channel[: len(codes)]
    factor = _factors(integers, steps, codes, scale)
    changed = np.round(integers * steps / (scale * factor)[:, None]) != codes
    bias = np.zeros(len(scale)) if site.bias is None else site.bias[: len(scale)]
    step = 1.0 if site.layer.input is None else float(site.layer.input.scale)
    apart = np.abs(layer.bias[: len(bias)] - bias)
    units = apart / np.maximum(np.abs(scale) * step, 1e-300)
    small = SAME * np.maximum(np.abs(bias), np.abs(scale) * step)
    differ = np.abs(factor - 1)
    moved = layer.bias[: len(bias)] - bias
    share, classes = _effect(model, example, outputs, site, integers * steps, moved)
    return FileLayerAudit(
        name=site.name,
        weights=codes.size,
        codes_changed=int(np.count_nonzero(changed)),
        scales=len(scale),
        scales_changed=int(np.count_nonzero(differ > SAME)),
        largest_scale=float(differ.max(initial=0.0)),
        biases_changed=int(np.count_nonzero(apart > small)),
        largest_bias=float(units.max(initial=0.0)),
        error=share,
        classes_changed=classes,
    )


def _rest(site: Site, axis: int) -> int:
    return site.layer.codes.size // site.layer.codes.shape[axis]


def _factors(
    integers: np.ndarray, steps: np.ndarray, codes: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Return the scale of each channel in the file as a multiple of the trained one, near 1.

    A file may store the codes times an integer and a scale that is as much finer, so the median of
    the values per trained code counts. 1 for a channel of zeros.
    """
    values = integers * steps
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(codes != 0, values / (codes * scale[:, None]), np.nan)
    with np.errstate(all="ignore"):
        found = np.array(
            [np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else 1.0 for row in ratios]
        )
    return np.where(np.isfinite(found) & (found != 0), found, 1.0)


class _Given(nn.Module):
    """Module that returns the values of a weight."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, _: Tensor) -> Tensor:
        return self.values


@torch.no_grad()
def _effect(
    model: nn.Module,
    example: Example,
    outputs: Outputs,
    site: Site,
    values: np.ndarray,
    bias_change: np.ndarray,
) -> tuple[float, int | None]:
    """Return what the outputs do if one layer has the numbers of the file."""
    axis = 1 if site.layer.transposed else 0
    own = np.broadcast_to(site.layer.scale.astype(np.float64), site.scale.shape)
    folded = np.broadcast_to(site.scale / own, (len(values),))
    folded = np.where(folded == 0, 1.0, folded)
    shape = list(np.moveaxis(site.layer.codes, axis, 0).shape)
    weight = np.moveaxis((values / folded[:, None]).reshape(shape), 0, axis)
    other = copy.deepcopy(model)
    layer = other.get_submodule(site.layer.name)
    device = next(model.parameters()).device
    made = torch.from_numpy(np.ascontiguousarray(weight)).float().to(device)
    layer.add_module("weight_quantizer", _Given(made))
    spatial = 0 if site.kind == "linear" else site.layer.codes.ndim - 2
    change = torch.from_numpy(bias_change / folded).float().to(device)
    change = change.reshape(-1, *(1,) * spatial)

    def move(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return output + change

    layer.register_forward_hook(move)
    changed = run_trained(other, example).outputs
    classes = None
    if class_output(outputs) is not None:
        classes = int(np.count_nonzero(classes_of(outputs) != classes_of(changed)))
    return largest_error(outputs, changed), classes
