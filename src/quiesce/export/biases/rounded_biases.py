"""Biases of a network put where its integer convolutions can hold them.

At 8 bits of activations no integer bias does what a float one does: among 255 thresholds there is
always one that it moves across an accumulator. So the network is moved instead, by a fraction of an
accumulator unit in each channel, and exported as what it is then: in integers, and still equal to
the network that it came from.
"""

import copy

import numpy as np
import torch
from torch import nn

from quiesce.export.biases.integer_biases import (
    find_biases,
    find_each,
    largest_multiples,
)
from quiesce.export.biases.thresholds import Inputs, Outputs, count_doubts
from quiesce.export.graph.folded_graph import fold
from quiesce.export.graph.quantized_inputs import between_quantizers
from quiesce.export.graph.weight_sites import Site
from quiesce.export.interface import Example
from quiesce.export.packing import DEFAULT_OPSET

LARGEST = 2**31
"""Units: beyond no bias is an int32, and the channel is dead."""

SHIFTS = (0, 1, -1, 2, -2)
"""Units next to the nearest whole bias that are tried where its thresholds lie on accumulators."""


@torch.no_grad()
def with_rounded_biases(model: nn.Module, example: Example) -> nn.Module:
    """Return a copy of a network whose biases are whole numbers wherever integers could add them.

    A convolution between two quantizers adds its bias to a sum of integers. Exported, that bias is
    an integer as well, in units of input scale * weight scale / n, where n is what the weight's
    codes can be multiplied by in their 8-bit container. Here it is rounded to whole units, batch
    norms taken into account: the shift of the batch norm, or else the convolution's own bias, moves
    by at most half a unit (by two and a half where the codes' thresholds would come to lie on
    accumulators). The same network and the same kind of input give the same numbers.

    Left as they are: biases of layers that run in integers without this, that the network reads
    more than once, that come of a batch norm without a shift, of layers with 8-bit weights and
    inputs (their products do not fit into the 16 bits of older processors), and of layers that are
    not between two quantizers.

    Args:
        model: Prepared, calibrated and trained; it stays as it is.
        example: Arguments of it.

    Raises:
        NotCalibratedError, NothingToDoError, ExportError: As `export_onnx`.
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
    """Values for the parameter `own` with which `find_biases` finds integers for a site.

    Returns:
        None where it finds them as it is, or with no values.
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
    """Values of a parameter: those that make a bias whole, the nearest first, and the one it has.

    The bias of a dead channel, whose units are too small, no value makes whole.

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
