"""Searches the fractional bits of acc*m + b, and names fixed-point types.

A code is clip(round(acc*m + b)), rounded half to even. Codes are monotone in the accumulator, so if
the rounded m and b give the trained codes on both sides of every threshold and at both ends of the
reachable accumulators, they give them for every reachable accumulator.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from quiesce.export.biases.thresholds import DOUBT, Inputs, Outputs, Reach, look, reaches

MOST_FRACTION = 32
"""Largest number of fractional bits that is tried."""

LARGEST = 2.0**62
"""acc*m + b, times 2^fraction, is computed in int64."""

SHARE = 2.0**-14
"""Largest error, in codes, where values are not proven one by one: less than the distance from a
threshold within which verification leaves a code undecided."""


class Affine(NamedTuple):
    """sum of terms x*m, plus b; all m and b are integers times 2^-fraction."""

    scales: tuple[np.ndarray, ...]
    """int64 (channels,) or (1,), for each term."""
    bias: np.ndarray
    """int64 (channels,) or (1,)."""
    fraction: int


def rounded(scales: Sequence[np.ndarray], bias: np.ndarray, fraction: int) -> Affine:
    """Return float64 numbers as integers times 2^-fraction."""
    terms = tuple(np.round(scale * 2.0**fraction).astype(np.int64) for scale in scales)
    return Affine(terms, np.round(bias * 2.0**fraction).astype(np.int64), fraction)


def half_even(sums: np.ndarray, fraction: int) -> np.ndarray:
    """Return int64 sums times 2^-fraction, rounded half to even."""
    if not fraction:
        return sums
    whole, rest = sums >> fraction, sums & ((1 << fraction) - 1)
    half = 1 << (fraction - 1)
    return whole + ((rest > half) | ((rest == half) & (whole & 1 == 1)))


def search_layer(
    scale: np.ndarray, bias: np.ndarray, codes: np.ndarray, inputs: Inputs, outputs: Outputs
) -> Affine | None:
    """Return acc*m + b with the fewest fractional bits that gives every trained code.

    Where the order of a float32 sum decides a code in training, either neighbour is right.

    Args:
        scale: float64 (channels,), floats per weight code.
        bias: float64 (channels,), in floats.
        codes: (channels, weights of a channel), integers.
        inputs: The input of the layer.
        outputs: The grid after the layer.

    Returns:
        None if `MOST_FRACTION` bits do not suffice.
    """
    near, trained, doubtful, channel = [], [], [], []
    for place, ends in enumerate(zip(*reaches(codes, inputs), strict=True)):
        own = look(scale[place], bias[place], Reach(*map(int, ends)), inputs.scale, outputs)
        first = own.first_above
        tried = np.unique(np.concatenate([first - 2, first - 1, first, first + 1, own.reach]))
        tried = tried[(tried >= own.reach.low) & (tried <= own.reach.high)]
        distance = np.abs(tried[:, None] - own.crossed)
        near.append(own.sign * tried.astype(np.int64))
        trained.append(outputs.low + np.searchsorted(first, tried, side="right"))
        doubtful.append((distance <= own.doubt).any(1))
        channel.append(np.full(tried.size, place))
    at = np.concatenate(channel)
    step = float(inputs.scale) / float(outputs.scale)
    return _search(
        [np.concatenate(near)],
        [scale * step],
        bias / float(outputs.scale),
        at,
        np.concatenate(trained),
        np.concatenate(doubtful),
        outputs,
    )


def search_addition(
    steps: tuple[float, float], operands: tuple[Outputs, Outputs], outputs: Outputs
) -> Affine | None:
    """Return left*m + right*n with the fewest fractional bits that gives every trained code.

    Args:
        steps: Floats per code of both operands.
        operands: The grids of both operands; every pair of codes is tried.
        outputs: The grid after the addition.
    """
    left, right = (np.arange(each.low, each.high + 1) for each in operands)
    pairs = [each.ravel() for each in np.meshgrid(left, right)]
    sizes = [step / float(outputs.scale) for step in steps]
    terms = [codes * size for codes, size in zip(pairs, sizes, strict=True)]
    exact = terms[0] + terms[1]
    trained = np.clip(np.round(exact), outputs.low, outputs.high).astype(np.int64)
    distance = np.abs(exact - np.floor(exact) - 0.5)
    doubtful = distance <= DOUBT * (np.abs(terms[0]) + np.abs(terms[1]))
    at = np.zeros(exact.size, dtype=np.int64)
    scales = [np.array([size]) for size in sizes]
    return _search(pairs, scales, np.zeros(1), at, trained, doubtful, outputs)


def _search(
    terms: Sequence[np.ndarray],
    scales: Sequence[np.ndarray],
    bias: np.ndarray,
    at: np.ndarray,
    trained: np.ndarray,
    doubtful: np.ndarray,
    outputs: Outputs,
) -> Affine | None:
    """Try more and more fractional bits; `at` has the channel of each entry of the terms."""
    pairs = zip(terms, scales, strict=True)
    largest = np.abs(bias).max() + sum(
        float(np.abs(term * scale[at]).max(initial=0.0)) for term, scale in pairs
    )
    for fraction in range(MOST_FRACTION + 1):
        if (largest + 1) * 2.0**fraction >= LARGEST:
            return None
        tried = rounded(scales, bias, fraction)
        sums = tried.bias[at] + sum(
            term * scale[at] for term, scale in zip(terms, tried.scales, strict=True)
        )
        made = np.clip(half_even(sums, fraction), outputs.low, outputs.high)
        if (np.abs(made - trained) <= doubtful).all():
            return tried
    return None


def precise(
    scales: Sequence[np.ndarray], bias: np.ndarray, largest: Sequence[float], error: float
) -> Affine:
    """Return an affine map whose values are off by at most `error`.

    Args:
        scales: float64, for each term.
        bias: float64.
        largest: Largest absolute value of each term before the scale.
        error: In the unit of the result, above 0.
    """
    return rounded(scales, bias, fraction_for((sum(largest) + 1) / 2, error))


def fraction_for(steps: float, error: float) -> int:
    """Return the fractional bits with which `steps` units of the last bit are at most `error`."""
    return max(0, int(np.ceil(np.log2(steps / error))))


def signed_bits(low: int, high: int) -> int:
    """Return the bits of a two's complement integer that holds `low` to `high`; at least 2."""
    return max(2, int(high).bit_length() + 1, int(-low - 1).bit_length() + 1 if low < 0 else 0)


def type_of(numbers: np.ndarray, fraction: int) -> str:
    """Return the signed type of integers times 2^-fraction."""
    width = signed_bits(int(numbers.min()), int(numbers.max()))
    return f"fixed<{width},{width - fraction}>"


def integer_type(low: int, high: int) -> str:
    """Return the signed type of integers."""
    width = signed_bits(low, high)
    return f"fixed<{width},{width}>"


def codes_type(low: int, high: int) -> str | None:
    """Return the type whose rounding and saturation are those of codes from `low` to `high`.

    None if no type saturates at both ends.
    """
    bits = max(high.bit_length(), 1)
    if low == 0 and high == 2**bits - 1:
        return f"ufixed<{bits},{bits},RND_CONV,SAT>"
    if high == 2**bits - 1 and low in (-(2**bits), -high):
        mode = "SAT" if low < -high else "SAT_SYM"
        return f"fixed<{bits + 1},{bits + 1},RND_CONV,{mode}>"
    return None
