"""Biases of a network put where its integer convolutions can hold them.

At 8 bits of activations no integer bias does what a float one does: among 255 thresholds there is
always one that it moves across an accumulator. So the network is moved instead, by a fraction of an
accumulator unit in each channel, and exported as what it is then: in integers, and still equal to
the network that it came from.
"""

import copy
from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

from quiesce.export.biases import (
    Inputs,
    Outputs,
    count_doubts,
    find_biases,
    largest_multiples,
)
from quiesce.export.folded import fold
from quiesce.export.inputs import between_quantizers
from quiesce.export.packing import DEFAULT_OPSET
from quiesce.export.sites import Site

LARGEST = 2**31
"""Units: beyond no bias is an int32, and the channel is dead."""

SHIFTS = (0, 1, -1, 2, -2)
"""Units next to the nearest whole bias that are tried where its thresholds lie on accumulators."""


@torch.no_grad()
def with_rounded_biases(model: nn.Module, example_input: Tensor) -> nn.Module:
    """Return a copy of a network whose biases are whole numbers wherever integers could add them.

    A convolution between two quantizers adds its bias to a sum of integers. Exported, that bias is
    an integer as well, in units of input scale * weight scale / n, where n is what the weight's
    codes can be multiplied by in their 8-bit container. Here it is rounded to whole units, batch
    norms taken into account: the shift of the batch norm, or else the convolution's own bias, moves
    by at most half a unit (by two and a half where the codes' thresholds would come to lie on
    accumulators). The same network and the same kind of input give the same numbers.

    Left as they are: biases that several layers share, of layers with 8-bit weights and inputs
    (their products do not fit into the 16 bits of older processors), and of layers that are not
    between two quantizers.

    Args:
        model: Prepared, calibrated and trained; it stays as it is.
        example_input: Images (batch, ...).

    Raises:
        NotCalibratedError, NothingToDoError, ExportError: As `export_onnx`.
    """
    folded = fold(model, example_input, DEFAULT_OPSET)
    rounded = copy.deepcopy(model)
    parameters = dict(rounded.named_parameters())
    uses = Counter(site.bias_parameter for site in folded.sites)
    for site in folded.sites:
        between = between_quantizers(site, folded.inputs)
        parameter = parameters.get(site.bias_parameter or "")
        if between is None or parameter is None or uses[site.bias_parameter] > 1:
            continue
        values = _whole(site, parameter.cpu().numpy(), *between)
        if values is not None:
            parameter.copy_(torch.from_numpy(values))
    return rounded


def _whole(site: Site, own: np.ndarray, inputs: Inputs, outputs: Outputs) -> np.ndarray | None:
    """Values for the parameter `own` with which `find_biases` finds integers for a site."""
    bias: np.ndarray = site.bias  # pyright: ignore[reportAssignmentType]
    scale, codes = site.per_channel, site.channel_codes
    multiples = largest_multiples(scale, bias, codes, inputs)
    if multiples is None:
        return None
    units = scale * float(inputs.scale) / multiples
    values = own.copy()
    for channel in range(len(own)):
        tried = _tried(own[channel], bias[channel], units[channel])
        one = slice(channel, channel + 1)
        numbers = [bias[channel] + (float(value) - float(own[channel])) for value in tried]
        whole = range(len(tried) - 1)
        doubts = [
            count_doubts(scale[channel], numbers[place], codes[one], inputs, outputs)
            for place in whole
        ]
        for place in [*sorted(whole, key=doubts.__getitem__), len(whole)]:
            made = np.array([numbers[place]])
            if find_biases(scale[one], made, codes[one], inputs, outputs) is not None:
                values[channel] = tried[place]
                break
        else:
            return None
    return values


def _tried(own: np.float32, bias: float, unit: float) -> list[np.float32]:
    """Values of a parameter: those that make a bias whole, the nearest first, and the one it has.

    The bias of a dead channel, whose units are too small, no value makes whole.
    """
    if abs(bias) >= LARGEST * abs(unit):
        return [own]
    whole = [(np.round(bias / unit) + shift) * unit for shift in SHIFTS]
    return [*(np.float32(own + (each - bias)) for each in whole), own]
