"""Thresholds of a channel, and a check that a runtime changes the codes at the same ones.

Codes increase with the accumulator, the sum of products of integers. If a runtime gives the trained
codes on both sides of every threshold, it gives them everywhere.
"""

from typing import NamedTuple

import numpy as np

SMALLEST = 1e-200
"""Smallest value of an accumulator unit; the batch norm of a dead channel may give less, or 0."""

DOUBT = 2**-21
"""Error of float32 sums in training, as a share of sum and bias: some 8 roundings."""


class Inputs(NamedTuple):
    """The input of a layer."""

    scale: np.float32
    low: int
    high: int
    stored: int
    """Largest number in the uint8 type: `high` and the zero point."""


class Outputs(NamedTuple):
    """The grid of the output of a layer."""

    scale: np.float32
    low: int
    high: int


class Reach(NamedTuple):
    """Smallest and largest accumulator of a channel."""

    low: int
    high: int


def reaches(codes: np.ndarray, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest accumulators, int64 (channels,) both."""
    first, last = min(inputs.low, 0), max(inputs.high, 0)  # padding is 0
    below = np.minimum(codes, 0).sum(1, dtype=np.int64)
    above = np.maximum(codes, 0).sum(1, dtype=np.int64)
    return above * first + below * last, above * last + below * first


class Channel(NamedTuple):
    """Thresholds of a channel; arrays are (codes - 1,), ascending.

    Accumulators are counted in the direction of increasing codes: negated if `sign` is -1.
    """

    reach: Reach
    edges: np.ndarray
    """float64, the thresholds in codes, such as 0.5."""
    crossed: np.ndarray
    """float64, the same in accumulators."""
    first_above: np.ndarray
    """The first reachable accumulator with the code above the threshold."""
    doubt: np.ndarray
    """float64, the distance from a threshold within which float32 cannot decide."""
    unit: float
    """Floats per accumulator, above 0."""
    sign: int
    """Sign of the scale, 1 or -1."""
    step: np.float32
    """Scale of the input."""
    outputs: Outputs


def runtime_codes(
    accumulators: np.ndarray, bias: int, scale: np.float32, step: np.float32, outputs: Outputs
) -> np.ndarray:
    """Return the codes of an integer convolution as ONNX Runtime computes them, in float32.

    Args:
        accumulators: Integers, of the multiplied codes, without the bias.
        bias: int32.
        scale: Floats per unit of the multiplied code.
        step: Scale of the input.
        outputs: The grid after the layer.
    """
    multiplier = np.float32(np.float32(step * scale) / outputs.scale)
    scaled = (accumulators + bias).astype(np.float32) * multiplier
    return np.clip(np.round(scaled), outputs.low, outputs.high).astype(np.int64)


def is_right(
    channel: Channel, multiple: int, bias: int, scale: np.float32, doubts: float = 0.0
) -> bool:
    """Return whether the runtime gives the trained codes on both sides of every threshold.

    Args:
        channel: The channel with the trained thresholds.
        multiple: Factor of its codes.
        bias: int32, in units of the multiplied accumulator.
        scale: Floats per unit of the multiplied code.
        doubts: Share of the accumulators between the first and the last threshold that may get the
            neighbouring code, where floats cannot decide.
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


def count_doubts(
    scale: np.ndarray, bias: np.ndarray, codes: np.ndarray, inputs: Inputs, outputs: Outputs
) -> np.ndarray:
    """Count the thresholds of each channel that lie on an accumulator, to float precision.

    The arguments are those of `quiesce.export.biases.integer_biases.find_biases`.

    Returns:
        int64 (channels,).
    """
    lows, highs = (each[:, None] for each in reaches(codes, inputs))
    mirrored = scale[:, None] < 0
    lows, highs = np.where(mirrored, -highs, lows), np.where(mirrored, -lows, highs)
    unit = _unit(scale[:, None], inputs.scale)
    crossed, doubt = _crossings(bias[:, None], unit, outputs)
    near = np.abs(crossed - np.round(crossed)) <= doubt
    return np.count_nonzero(near & (crossed >= lows) & (crossed <= highs), axis=1)


def _unit(scale: np.ndarray | float, step: np.float32) -> np.ndarray:
    """Return floats per accumulator, at least SMALLEST."""
    return np.maximum(SMALLEST, np.abs(scale) * float(step))


def _crossings(
    bias: np.ndarray | float, unit: np.ndarray | float, outputs: Outputs
) -> tuple[np.ndarray, np.ndarray]:
    """Return the accumulator at each threshold, and the distance within which floats are unsure."""
    crossed = (_edges(outputs) * float(outputs.scale) - bias) / unit
    return crossed, DOUBT * (np.abs(crossed) + np.abs(bias / unit))


def _edges(outputs: Outputs) -> np.ndarray:
    """Return the thresholds, in codes."""
    return np.arange(outputs.low + 1, outputs.high + 1) - 0.5


def look(scale: float, bias: float, reach: Reach, step: np.float32, outputs: Outputs) -> Channel:
    """Return a channel; one with a negative scale is mirrored.

    Args:
        scale: Floats per weight code.
        bias: Bias in floats.
        reach: Smallest and largest accumulator of the channel.
        step: Scale of the input.
        outputs: The grid after the layer.
    """
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
