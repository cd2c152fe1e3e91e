"""Biases that an integer convolution can hold without moving a single code.

A runtime's integer convolution computes round(M (acc + B)) with an int32 bias B and one float
multiplier M a channel. At few bits one unit of the accumulator is a tenth of an output code or
more, so a bias rounded to a whole unit moves percents of all codes. Here codes are written n times
as large into their 8-bit container, at a scale n times as fine, which gives the bias n times the
resolution; then n, B and, by a fraction of a code, M are searched for such that every accumulator
the layer can reach gets the code that the trained network gives it. What the search returns is
checked threshold by threshold in the runtime's own float32 arithmetic: both sides of each threshold
right, and the function monotone, means all of them right.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

CONTAINER_MAX = 127
PAIR_MAX = 32767
"""What two products of uint8 and int8 may sum to: processors without VNNI add them in int16."""

EXACT_FLOAT = 2**24
"""Integers below are exact in float32, in which runtimes multiply accumulators."""

CLEARANCE = 4e-6
"""Distance that thresholds keep from reachable accumulators, as a share of the farthest threshold:
some 60 roundings of float32 there, so that a runtime that computes in floats decides alike. The
integer runtime needs none, its arithmetic is checked as it is: where a trained threshold is itself
that near to an accumulator, floats can not decide it anyhow, and no distance is kept."""


class Inputs(NamedTuple):
    """What a layer takes."""

    scale: np.float32
    low: int
    high: int
    stored: int
    """Largest number in the uint8 container: `high` and the zero point."""


class Outputs(NamedTuple):
    """The grid that a layer's outputs are rounded to."""

    scale: np.float32
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class IntegerBiases:
    """What replaces scale and bias of a layer; all of shape (channels,)."""

    multiple: np.ndarray
    """int64, at least 1: n, by which the codes are multiplied."""

    bias: np.ndarray
    """int32, in units of `bias_scale`."""

    scale: np.ndarray
    """float32, floats per unit of the multiplied code."""

    bias_scale: np.ndarray
    """float32, floats per unit of the bias: that of the input times `scale`."""


def find_biases(
    scale: np.ndarray,
    bias: np.ndarray,
    codes: np.ndarray,
    inputs: Inputs,
    outputs: Outputs,
) -> IntegerBiases | None:
    """Search for integer biases that give every reachable accumulator its trained code.

    Args:
        scale: float64 (channels,), floats per weight code.
        bias: float64 (channels,), in floats.
        codes: (channels, weights of a channel), integers.
        inputs: What the layer takes.
        outputs: The grid of what follows.

    Returns:
        None where one channel has no such bias.
    """
    step, first, last = inputs.scale, min(inputs.low, 0), max(inputs.high, 0)  # zeros are padded
    wide = codes.astype(np.int64)
    lows = np.minimum(wide * first, wide * last).sum(1)
    highs = np.maximum(wide * first, wide * last).sum(1)
    largest = np.abs(wide).max(1)
    room = min(CONTAINER_MAX, PAIR_MAX // (2 * max(1, inputs.stored)))
    if (largest > room).any():
        return None
    found = []
    for channel in range(len(wide)):
        reach = Reach(int(lows[channel]), int(highs[channel]))
        most = int(room // max(1, largest[channel]))
        one = _channel(scale[channel], bias[channel], reach, most, step, outputs)
        if one is None:
            return None
        found.append(one)
    multiple, whole, fine = zip(*found, strict=True)
    return IntegerBiases(
        multiple=np.array(multiple, dtype=np.int64),
        bias=np.array(whole, dtype=np.int32),
        scale=np.array(fine, dtype=np.float32),
        bias_scale=step * np.array(fine, dtype=np.float32),
    )


class Reach(NamedTuple):
    """Smallest and largest accumulator of a channel."""

    low: int
    high: int


def runtime_codes(
    accumulators: np.ndarray, bias: int, scale: np.float32, step: np.float32, outputs: Outputs
) -> np.ndarray:
    """Codes of an integer convolution as ONNX Runtime computes them, in float32.

    Args:
        accumulators: Integers, of the multiplied codes, without the bias.
        bias: int32.
        scale: Floats per unit of the multiplied code.
        step: Scale of the input.
        outputs: The grid that follows.
    """
    multiplier = np.float32(np.float32(step * scale) / outputs.scale)
    scaled = (accumulators + bias).astype(np.float32) * multiplier
    return np.clip(np.round(scaled), outputs.low, outputs.high).astype(np.int64)


def _channel(
    scale: float, bias: float, reach: Reach, most: int, step: np.float32, outputs: Outputs
) -> tuple[int, int, np.float32] | None:
    """(n, B, scale) of one channel; a scale below 0 is searched for in the mirror."""
    if scale == 0:
        return None
    unit = abs(scale) * float(step)
    sign = -1 if scale < 0 else 1
    if sign < 0:
        reach = Reach(-reach.high, -reach.low)
    upper = np.arange(outputs.low + 1, outputs.high + 1)
    edges = upper - 0.5  # between code upper - 1 and code upper
    if not len(edges):
        return None
    crossed = (edges * float(outputs.scale) - bias) / unit  # the accumulator at each edge
    first_above = np.ceil(crossed)
    first_above += (first_above == crossed) & (upper % 2 == 1)  # a tie goes to the even code
    first_above = np.clip(first_above, reach.low, reach.high + 1)
    for clearance, multiple in product((CLEARANCE, 0.0), range(most, 0, -1)):
        one = _search(multiple, bias / unit, edges, first_above, reach, clearance)
        if one is None:
            continue
        whole, width = one
        fine = np.float32(sign * float(outputs.scale) / (width * float(step)))
        if _is_right(multiple, sign * whole, fine, first_above, reach, sign, step, outputs):
            return multiple, sign * whole, fine
    # where ties go down and up by turns no thresholds fit in between: the same numbers may tie too
    whole, fine = round(sign * bias / unit), np.float32(scale)
    fits = abs(whole) + max(map(abs, reach)) < EXACT_FLOAT
    if fits and _is_right(1, whole, fine, first_above, reach, sign, step, outputs):
        return 1, whole, fine
    return None


def _search(
    multiple: int,
    bias: float,
    edges: np.ndarray,
    first_above: np.ndarray,
    reach: Reach,
    clearance: float,
) -> tuple[int, float] | None:
    """B, and accumulator units per output code, that clear all edges best; or None.

    Edge e lies at accumulator e*width - B of the multiplied codes. It has to fall between the last
    accumulator below it and the first above it: an interval for `width` from each, for each B.
    """
    ideal = round(multiple * bias)
    tried = np.arange(ideal - multiple, ideal + multiple + 1, dtype=np.float64)[:, None]
    below = np.where(first_above > reach.low, multiple * (first_above - 1), -np.inf) + tried
    above = np.where(first_above <= reach.high, multiple * first_above, np.inf) + tried
    ends = np.stack([below / edges, above / edges])
    lowest = np.maximum(ends.min(0).max(1), 1e-9)
    highest = ends.max(0).min(1)
    open_ended = ~np.isfinite(highest)
    highest = np.where(open_ended, 2 * lowest + 1, highest)
    width = (lowest + highest) / 2
    at = edges * width[:, None]
    clear = np.minimum(at - below, above - at).min(1)
    best = int(clear.argmax())
    limit = max(abs(multiple * end + tried[best, 0]) for end in reach)
    farthest = min(limit, float(np.abs(at[best]).max()))
    if clear[best] <= clearance * farthest or limit >= EXACT_FLOAT:
        return None
    return int(tried[best, 0]), float(width[best])


def _is_right(
    multiple: int,
    bias: int,
    scale: np.float32,
    first_above: np.ndarray,
    reach: Reach,
    sign: int,
    step: np.float32,
    outputs: Outputs,
) -> bool:
    """Whether the runtime's arithmetic gives the trained code on both sides of every threshold."""
    near = np.concatenate([first_above - 1, first_above, [reach.low, reach.high]])
    near = near[(near >= reach.low) & (near <= reach.high)].astype(np.int64)
    trained = outputs.low + (near[:, None] >= first_above).sum(1)
    computed = runtime_codes(sign * multiple * near, bias, scale, step, outputs)
    return bool((trained == computed).all())
