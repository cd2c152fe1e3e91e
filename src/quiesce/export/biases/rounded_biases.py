"""Rounds the biases of a network to values that its integer convolutions can add.

With 8-bit activations no integer bias replaces a float bias exactly: among 255 thresholds there is
always one that moves across an accumulator. So the network itself is changed, by a fraction of an
accumulator unit in each channel, and exported with these biases: in integers, and verified.
"""

import copy

import numpy as np
import torch
from torch import nn

from quiesce.export.biases.integer_biases import find_biases, find_each, largest_multiples
from quiesce.export.biases.thresholds import Inputs, Outputs, count_doubts
from quiesce.export.graph.folded_graph import fold
from quiesce.export.graph.quantized_inputs import between_quantizers
from quiesce.export.graph.weight_sites import Site
from quiesce.export.interface import Example
from quiesce.export.packing import DEFAULT_OPSET

LARGEST = 2**31
"""Units; a larger bias does not fit into int32, and the channel is dead."""

SHIFTS = (0, 1, -1, 2, -2)
"""Units to add to the nearest integer bias, if its thresholds lie on accumulators."""


@torch.no_grad()
def with_rounded_biases(model: nn.Module, example: Example) -> nn.Module:
    """Return a copy of a network whose biases are integers wherever integers can add them.

    A convolution between two quantizers adds its bias to a sum of integers. In the file, that bias
    is an integer in units of input scale * weight scale / n, with n the factor of the weight codes
    in their 8-bit type. This function rounds it to such units, after folding batch norms: the shift
    of the batch norm, or else the bias of the convolution, changes by at most half a unit (two and
    a half where thresholds would lie on accumulators). The result is deterministic.

    These biases do not change: those of layers that already run in integers; of layers that the
    network reads more than once; of a batch norm without a shift; of layers with 8-bit weights and
    inputs, whose products do not fit into the 16 bits of older processors; and of layers that are
    not between two quantizers.

    Args:
        model: A prepared, calibrated and trained model; it does not change.

    Raises:
        NotCalibratedError, NothingToDoError, ExportError: See `export_onnx`.
    """
    folded = fold(model, example, DEFAULT_OPSET)
    rounded = copy.deepcopy(model)
    parameters = dict(rounded.named_parameters())
    for site in folded.sites:
        between = between_quantizers(site, folded.inputs)
        name = site.bias_parameter
        if between is None or name not in parameters or folded.reads[name] > 1:
            continue
        values = _whole(site, parameters[name].cpu().numpy(), *between)
        if values is not None:
            parameters[name].copy_(torch.from_numpy(values))
    return rounded


def _whole(site: Site, own: np.ndarray, inputs: Inputs, outputs: Outputs) -> np.ndarray | None:
    """Return values for the parameter `own` with which `find_biases` finds integers for a site.

    Returns:
        None if it finds them without a change, or not at all.
    """
    bias: np.ndarray = site.bias  # pyright: ignore[reportAssignmentType]
    scale, codes = site.per_channel, site.channel_codes
    multiples = largest_multiples(scale, bias, codes, inputs)
    if multiples is None or find_biases(scale, bias, codes, inputs, outputs) is not None:
        return None
    tried = _tried(own, bias, scale * float(inputs.scale) / multiples)
    made = bias + (tried.astype(np.float64) - own.astype(np.float64))
    doubts = [count_doubts(scale, each, codes, inputs, outputs) for each in made[:-1]]
    order = np.argsort(doubts, axis=0, kind="stable")
    last = np.full(len(own), len(order))
    values, missing = own.copy(), np.arange(len(own))
    for places in (*order, last):
        place = places[missing]
        searched = find_each(scale[missing], made[place, missing], codes[missing], inputs, outputs)
        found = np.array([one is not None for one in searched])
        values[missing[found]] = tried[place, missing][found]
        missing = missing[~found]
        if not missing.size:
            return values
    return None


def _tried(own: np.ndarray, bias: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return candidate values: those that make a bias an integer, then the present value.

    No value makes the bias of a dead channel an integer, because its units are too small.

    Args:
        own: float32 (channels,), the parameter.
        bias: float64 (channels,), in floats.
        units: float64 (channels,), floats.

    Returns:
        float32 (tried, channels).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        nearest = np.round(bias / units)
        whole = np.stack([own + ((nearest + shift) * units - bias) for shift in SHIFTS])
        dead = np.abs(bias) >= LARGEST * np.abs(units)
        return np.vstack([np.where(dead, own, whole), own]).astype(np.float32)
