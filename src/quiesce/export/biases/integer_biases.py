"""Integer biases for integer convolutions that change no code.

The integer convolution of a runtime computes round(M (acc + B)) with an int32 bias B and one float
multiplier M per channel. With few bits, one unit of the accumulator is a tenth of an output code or
more, so rounding a bias to an integer changes several percent of all codes. Here codes are stored n
times as large in their 8-bit type, with a scale n times as fine, so the bias has n times the
resolution. Then n, B and, by a fraction of a code, M are searched so that every accumulator that
the layer can reach gets its trained code. The result is checked at every threshold in the float32
arithmetic of the runtime (`thresholds`). Only an accumulator that lies on a threshold, as far as
floats can tell, may get the neighbouring code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from quiesce.export.biases.thresholds import (
    Channel,
    Inputs,
    Outputs,
    Reach,
    is_right,
    look,
    reaches,
)

CONTAINER_MAX = 127
PAIR_MAX = 32767
"""Largest sum of two products of uint8 and int8: processors without VNNI add them in int16."""

EXACT_FLOAT = 2**24
"""Smaller integers are exact in float32, in which runtimes multiply accumulators."""

CLEARANCE = 4e-6
"""Distance of thresholds from reachable accumulators, as a share of the farthest threshold: some 60
roundings of float32, so that runtimes that compute in floats agree. The integer runtime needs none,
because its arithmetic is checked directly. If a trained threshold is that near to an accumulator,
floats cannot decide it, and no distance is kept."""

INT32_MAX = 2**31 - 1

TINY = float(np.finfo(np.float32).tiny)
"""Smallest scale that is written: runtimes may treat smaller ones as 0."""

MANY = 63
"""With more thresholds than this, they are unlikely to be all clear, so the trained numbers are
tried first."""

MAX_DOUBTS = 2e-4
"""Share of the accumulators of a channel that may get the neighbouring code at a threshold that
near: one of 5,000. Most channels have none; verification allows 1e-4 in a layer."""


class Integers(NamedTuple):
    """Replacement for scale and bias of a channel, see `IntegerBiases`."""

    multiple: int
    bias: int
    scale: np.float32


@dataclass(frozen=True, kw_only=True)
class IntegerBiases:
    """Replacement for scale and bias of a layer; all fields have the shape (channels,)."""

    multiple: np.ndarray
    """int64, at least 1: n, the factor of the codes."""
    bias: np.ndarray
    """int32, in units of `bias_scale`."""
    scale: np.ndarray
    """float32, floats per unit of the multiplied code."""
    bias_scale: np.ndarray
    """float32, floats per unit of the bias: the scale of the input times `scale`."""


def find_biases(
    scale: np.ndarray, bias: np.ndarray, codes: np.ndarray, inputs: Inputs, outputs: Outputs
) -> IntegerBiases | None:
    """Search integer biases that give every reachable accumulator its trained code.

    Args:
        scale: float64 (channels,), floats per weight code.
        bias: float64 (channels,), in floats.
        codes: (channels, weights of a channel), integers.
        inputs: The input of the layer.
        outputs: The grid after the layer.

    Returns:
        None if a channel has no such bias.
    """
    found = []
    for one in find_each(scale, bias, codes, inputs, outputs):
        if one is None:
            return None
        found.append(one)
    multiple, whole, fine = zip(*found, strict=True)
    return IntegerBiases(
        multiple=np.array(multiple, dtype=np.int64),
        bias=np.array(whole, dtype=np.int32),
        scale=np.array(fine, dtype=np.float32),
        bias_scale=inputs.scale * np.array(fine, dtype=np.float32),
    )


def find_each(
    scale: np.ndarray, bias: np.ndarray, codes: np.ndarray, inputs: Inputs, outputs: Outputs
) -> Iterator[Integers | None]:
    """Search as `find_biases`, with the same arguments, channel by channel.

    Yields:
        The integers of a channel, or None if it has no such bias.
    """
    most = largest_multiples(scale, bias, codes, inputs)
    if most is None:
        yield from [None] * len(codes)
        return
    for channel, ends in enumerate(zip(*reaches(codes, inputs), strict=True)):
        own = look(scale[channel], bias[channel], Reach(*map(int, ends)), inputs.scale, outputs)
        tried = _candidates(own, scale[channel], bias[channel] / own.unit, int(most[channel]))
        right = (Integers(*one[:3]) for one in tried if is_right(own, *one))
        yield next(right, None)


def largest_multiples(
    scale: np.ndarray, bias: np.ndarray, codes: np.ndarray, inputs: Inputs
) -> np.ndarray | None:
    """Return the largest factor of the codes of each channel; arguments as in `find_biases`.

    Returns:
        int64 (channels,), at least 1; None if the codes of a channel do not fit.
    """
    largest = np.abs(codes.astype(np.int64)).max(1)
    room = min(CONTAINER_MAX, PAIR_MAX // (2 * max(1, inputs.stored)))
    if (largest > room).any():
        return None
    lows, highs = reaches(codes, inputs)
    farthest = np.maximum(-lows, highs)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.nan_to_num(farthest + np.abs(bias / (scale * float(inputs.scale))))
    exact = np.floor((EXACT_FLOAT - 1) / np.maximum(1, sums))
    return np.maximum(1, np.minimum(room // np.maximum(1, largest), exact)).astype(np.int64)


def _candidates(
    channel: Channel, scale: float, bias: float, most: int
) -> Iterator[tuple[int, int, np.float32, float]]:
    """Yield (n, B, scale, share of doubts) to try; `bias` is in accumulators."""
    sign, farthest = channel.sign, max(map(abs, channel.reach))

    def as_trained(multiple: int, doubts: float) -> Iterator[tuple[int, int, np.float32, float]]:
        whole = round(sign * multiple * bias)
        # a sum that float32 rounds counts as a doubt
        if abs(whole) + multiple * farthest >= (INT32_MAX if doubts else EXACT_FLOAT):
            return
        if min(1.0, float(channel.step)) * abs(scale) / multiple >= TINY:
            yield multiple, whole, np.float32(scale / multiple), doubts

    if not len(channel.crossed):
        yield from _coarse(channel)
        return
    many = len(channel.crossed) > MANY
    if many:
        yield from as_trained(most, MAX_DOUBTS)
    searched = [(0.0, most)] if many else product((CLEARANCE, 0.0), range(most, 0, -1))
    for clearance, multiple in searched:
        one = _search(channel, multiple, bias, clearance)
        if one is not None:
            whole, width = one
            fine = sign * float(channel.outputs.scale) / (width * float(channel.step))
            yield multiple, sign * whole, np.float32(fine), 0.0
    # if ties round down and up alternately, only the trained numbers may fit
    yield from as_trained(1, 0.0)
    if not many:
        yield from as_trained(most, MAX_DOUBTS)
    yield from _coarse(channel)


def _coarse(channel: Channel) -> Iterator[tuple[int, int, np.float32, float]]:
    """Yield coarse numbers for a channel with at most two different codes.

    Batch norms can cause such channels. In their units the bias is larger than all integers.
    """
    reach, first_above, sign = channel.reach, channel.first_above, channel.sign
    inside = (first_above > reach.low) & (first_above <= reach.high)
    if inside.sum() > 1:
        return
    farthest = max(map(abs, reach))
    width = 4 * farthest + 1  # accumulators per code; odd, so that a half is not an integer
    if inside.any():
        place = int(inside.argmax())
        whole = int(channel.edges[place] * width + 0.5 - first_above[place])
    else:
        whole = width * (channel.outputs.low + int((first_above <= reach.low).sum()))
    if abs(whole) + farthest <= INT32_MAX:
        fine = sign * float(channel.outputs.scale) / (width * float(channel.step))
        yield 1, sign * whole, np.float32(fine), 0.0


def _search(
    channel: Channel, multiple: int, bias: float, clearance: float
) -> tuple[int, float] | None:
    """Return B, and accumulator units per output code, with the largest clearance; or None.

    Edge e is at accumulator e*width - B of the multiplied codes. It must be between the last
    accumulator below it and the first above it: an interval for `width` from each edge, for each B.
    """
    reach, edges, first_above = channel.reach, channel.edges, channel.first_above
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
