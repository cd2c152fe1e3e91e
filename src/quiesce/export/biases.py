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

from collections.abc import Iterator
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


INT32_MAX = 2**31 - 1

TINY = float(np.finfo(np.float32).tiny)
"""Smallest scale that is written: runtimes may take what is below for 0, which is no scale."""

SMALLEST = 1e-200
"""Floats of an accumulator; a batch norm may make less of a dead channel, or nothing."""

MANY = 63
"""Thresholds: more than these are hardly ever all clear, so the trained numbers are tried first."""

DOUBT = 2**-21
"""What training's float32 departs from exact sums, as a share of sum and bias: some 8 roundings."""

MAX_DOUBTS = 2e-4
"""Share of a channel's accumulators that may get the other code of a threshold that near: one of
5,000. Most channels have none; verification allows a layer 1e-4."""


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


class Integers(NamedTuple):
    """What replaces scale and bias of one channel, see `IntegerBiases`."""

    multiple: int
    bias: int
    scale: np.float32


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
    scale: np.ndarray,
    bias: np.ndarray,
    codes: np.ndarray,
    inputs: Inputs,
    outputs: Outputs,
) -> Iterator[Integers | None]:
    """Search as `find_biases`, with the same arguments, and give what is found channel by channel.

    Yields:
        None where a channel has no such bias.
    """
    most = largest_multiples(scale, bias, codes, inputs)
    if most is None:
        yield from [None] * len(codes)
        return
    for channel, ends in enumerate(zip(*_reaches(codes, inputs), strict=True)):
        reach = Reach(*map(int, ends))
        numbers = scale[channel], bias[channel], reach, int(most[channel])
        yield _channel(*numbers, inputs.scale, outputs)


def largest_multiples(
    scale: np.ndarray, bias: np.ndarray, codes: np.ndarray, inputs: Inputs
) -> np.ndarray | None:
    """By what each channel's codes can be multiplied at most; arguments as in `find_biases`.

    Returns:
        int64 (channels,), at least 1; None where one channel has no room for its codes.
    """
    largest = np.abs(codes.astype(np.int64)).max(1)
    room = min(CONTAINER_MAX, PAIR_MAX // (2 * max(1, inputs.stored)))
    if (largest > room).any():
        return None
    lows, highs = _reaches(codes, inputs)
    farthest = np.maximum(-lows, highs)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.nan_to_num(farthest + np.abs(bias / (scale * float(inputs.scale))))
    exact = np.floor((EXACT_FLOAT - 1) / np.maximum(1, sums))
    return np.maximum(1, np.minimum(room // np.maximum(1, largest), exact)).astype(np.int64)


class Reach(NamedTuple):
    """Smallest and largest accumulator of a channel."""

    low: int
    high: int


def _reaches(codes: np.ndarray, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest accumulators, int64 (channels,) both."""
    first, last = min(inputs.low, 0), max(inputs.high, 0)  # zeros are padded
    below = np.minimum(codes, 0).sum(1, dtype=np.int64)
    above = np.maximum(codes, 0).sum(1, dtype=np.int64)
    return above * first + below * last, above * last + below * first


class Channel(NamedTuple):
    """Where the codes of a channel change; the arrays are (codes - 1,), ascending.

    Accumulators are counted in the direction in which codes grow: negative, where `sign` is.
    """

    reach: Reach

    edges: np.ndarray
    """float64, the thresholds in codes: halves."""

    crossed: np.ndarray
    """float64, the same in accumulators."""

    first_above: np.ndarray
    """The first reachable accumulator that gets the code above it."""

    doubt: np.ndarray
    """float64, how far an accumulator may be off that training's float32 can not tell from it."""

    unit: float
    """Floats of an accumulator, above 0."""

    sign: int
    """Of the scale, 1 or -1."""

    step: np.float32
    """Scale of the input."""

    outputs: Outputs


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


def count_doubts(
    scale: np.ndarray,
    bias: np.ndarray,
    codes: np.ndarray,
    inputs: Inputs,
    outputs: Outputs,
) -> np.ndarray:
    """How many thresholds of each channel lie on an accumulator as far as floats can tell.

    Args:
        scale: float64 (channels,), floats per weight code.
        bias: float64 (channels,), in floats.
        codes: (channels, weights of a channel), integers.
        inputs: What the layer takes.
        outputs: The grid of what follows.

    Returns:
        int64 (channels,).
    """
    lows, highs = (each[:, None] for each in _reaches(codes, inputs))
    mirrored = scale[:, None] < 0
    lows, highs = np.where(mirrored, -highs, lows), np.where(mirrored, -lows, highs)
    unit = _unit(scale[:, None], inputs.scale)
    crossed, doubt = _crossings(bias[:, None], unit, outputs)
    near = np.abs(crossed - np.round(crossed)) <= doubt
    return np.count_nonzero(near & (crossed >= lows) & (crossed <= highs), axis=1)


def _unit(scale: np.ndarray | float, step: np.float32) -> np.ndarray:
    """Floats of an accumulator; the batch norm of a dead channel makes next to nothing of it."""
    return np.maximum(SMALLEST, np.abs(scale) * float(step))


def _crossings(
    bias: np.ndarray | float, unit: np.ndarray | float, outputs: Outputs
) -> tuple[np.ndarray, np.ndarray]:
    """The accumulator at each threshold, and how far from it floats can not tell."""
    crossed = (_edges(outputs) * float(outputs.scale) - bias) / unit
    return crossed, DOUBT * (np.abs(crossed) + np.abs(bias / unit))


def _edges(outputs: Outputs) -> np.ndarray:
    """The thresholds, in codes: between each and the one before."""
    return np.arange(outputs.low + 1, outputs.high + 1) - 0.5


def _look(scale: float, bias: float, reach: Reach, step: np.float32, outputs: Outputs) -> Channel:
    """A channel whose scale is below 0 is seen in the mirror."""
    unit = float(_unit(scale, step))
    sign = -1 if scale < 0 else 1
    if sign < 0:
        reach = Reach(-reach.high, -reach.low)
    edges = _edges(outputs)
    crossed, doubt = _crossings(bias, unit, outputs)
    first_above = np.ceil(crossed)
    first_above += (first_above == crossed) & ((edges + 0.5) % 2 == 1)  # ties go to the even code
    first_above = np.clip(first_above, reach.low, reach.high + 1)
    return Channel(reach, edges, crossed, first_above, doubt, unit, sign, step, outputs)


def _channel(
    scale: float, bias: float, reach: Reach, most: int, step: np.float32, outputs: Outputs
) -> Integers | None:
    channel = _look(scale, bias, reach, step, outputs)
    for multiple, whole, fine, doubts in _candidates(channel, scale, bias / channel.unit, most):
        if _is_right(channel, multiple, whole, fine, doubts):
            return Integers(multiple, whole, fine)
    return None


def _candidates(
    channel: Channel, scale: float, bias: float, most: int
) -> Iterator[tuple[int, int, np.float32, float]]:
    """(n, B, scale, share of doubts) to be tried; `bias` is in accumulators."""
    sign, farthest = channel.sign, max(map(abs, channel.reach))

    def as_trained(multiple: int, doubts: float) -> Iterator[tuple[int, int, np.float32, float]]:
        whole = round(sign * multiple * bias)
        # a sum that float32 rounds is as doubtful as others
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
    # where ties go down and up by turns no thresholds fit between: the same numbers may tie too
    yield from as_trained(1, 0.0)
    if not many:
        yield from as_trained(most, MAX_DOUBTS)
    yield from _coarse(channel)


def _coarse(channel: Channel) -> Iterator[tuple[int, int, np.float32, float]]:
    """For a channel that has one code, or two, at all accumulators: a coarse scale tells them.

    Batch norms leave such channels behind. In units of theirs the bias is beyond all integers.
    """
    reach, first_above, sign = channel.reach, channel.first_above, channel.sign
    inside = (first_above > reach.low) & (first_above <= reach.high)
    if inside.sum() > 1:
        return
    farthest = max(map(abs, reach))
    width = 4 * farthest + 1  # accumulators of a code; odd, so that halves of it are halves
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
    """B, and accumulator units per output code, that clear all edges best; or None.

    Edge e lies at accumulator e*width - B of the multiplied codes. It has to fall between the last
    accumulator below it and the first above it: an interval for `width` from each, for each B.
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


def _is_right(
    channel: Channel, multiple: int, bias: int, scale: np.float32, doubts: float = 0.0
) -> bool:
    """Whether the runtime's arithmetic gives the trained code on both sides of every threshold.

    With `doubts`, that share of the accumulators between the first and the last threshold may get
    the code beside theirs, where floats can not decide.
    """
    reach, first_above = channel.reach, channel.first_above
    near = first_above[:, None] + np.array([-2, -1, 0, 1])
    doubtful = np.abs(near - channel.crossed[:, None]) <= channel.doubt[:, None]
    near = np.append(near.ravel(), [reach.low, reach.high])
    doubtful = np.append(doubtful.ravel(), [False, False])
    inside = (near >= reach.low) & (near <= reach.high)
    near, doubtful = near[inside].astype(np.int64), doubtful[inside]
    trained = channel.outputs.low + np.searchsorted(first_above, near, side="right")
    products = channel.sign * multiple * near
    computed = runtime_codes(products, bias, scale, channel.step, channel.outputs)
    wrong = np.abs(trained - computed)
    most = doubts * float(np.ptp(first_above)) if doubts else 0.0
    return bool((wrong <= doubtful).all() and np.unique(near[wrong > 0]).size <= most)
