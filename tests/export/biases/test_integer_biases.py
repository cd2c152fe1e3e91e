"""Integer biases: every accumulator that can be reached gets the trained code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.arithmetic.grid import Grid
from quiesce.export.biases.integer_biases import (
    MAX_DOUBTS,
    find_biases,
    largest_multiples,
)
from quiesce.export.biases.thresholds import DOUBT, Inputs, Outputs, runtime_codes


def trained_codes(accumulators, scale, step, bias, outputs) -> tuple[np.ndarray, np.ndarray]:
    """What training decides, in float64, and whether float32 could have decided otherwise."""
    values = (accumulators * scale * float(step) + bias) / float(outputs.scale)
    return np.clip(np.round(values), outputs.low, outputs.high), np.abs(values % 1 - 0.5) < 1e-6


@given(
    bits=st.integers(2, 4),
    act_bits=st.integers(2, 4),
    signed=st.booleans(),
    count=st.integers(1, 40),
    unit=st.floats(0.01, 0.5),
    shift=st.floats(-8, 8),
    sign=st.sampled_from([-1, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_reachable_accumulator_gets_its_trained_code(
    bits, act_bits, signed, count, unit, shift, sign, seed
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (1, count))
    grid = Grid(act_bits, signed)
    first, last = grid.quant_min, grid.quant_max
    step = np.float32(rng.uniform(0.01, 1))
    outputs = Outputs(np.float32(rng.uniform(0.1, 1)), first, last)
    inputs = Inputs(step, first, last, last - first)
    scale = sign * unit * float(outputs.scale) / float(step)
    bias = shift * float(outputs.scale)
    found = find_biases(np.array([scale]), np.array([bias]), codes, inputs, outputs)
    if found is None:
        return  # it stays in float; how often that happens is tested below
    low = int(np.minimum(codes * first, codes * last).sum())
    high = int(np.maximum(codes * first, codes * last).sum())
    reach = np.arange(low, high + 1)
    expected, undecided = trained_codes(reach, scale, step, bias, outputs)
    n, whole, fine = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
    computed = runtime_codes(n * reach, whole, fine, step, outputs)
    assert (computed == expected)[~undecided].all()
    assert np.abs(codes * n).max() <= 127


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("signed", [False, True])
def test_at_8_bits_whole_biases_are_found_but_for_accumulators_on_a_threshold(signed, sign) -> None:
    rng = np.random.default_rng(0)
    grid = Grid(8, signed)
    first, last = grid.quant_min, grid.quant_max
    inputs = Inputs(np.float32(0.02), first, last, last - first)
    outputs = Outputs(np.float32(0.03), first, last)
    moved = 0
    for _ in range(50):
        codes = rng.normal(0, 3, (1, 200)).round().clip(-8, 7).astype(np.int64)
        unit = rng.uniform(0.01, 0.05, 1)  # of an output code
        scale = sign * unit * float(outputs.scale) / float(inputs.scale)
        bias = rng.normal(0, 30, 1) * float(outputs.scale)
        most = largest_multiples(scale, bias, codes, inputs)
        assert most is not None
        fine = scale * float(inputs.scale) / most
        bias = np.round(bias / fine) * fine
        found = find_biases(scale, bias, codes, inputs, outputs)
        assert found is not None
        low = int(np.minimum(codes * first, codes * last).sum())
        high = int(np.maximum(codes * first, codes * last).sum())
        reach = np.arange(low, high + 1)
        values = (reach * scale * float(inputs.scale) + bias) / float(outputs.scale)
        expected = np.clip(np.round(values), first, last)
        n, whole, small = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
        wrong = np.abs(runtime_codes(n * reach, whole, small, inputs.scale, outputs) - expected)
        # off a threshold, in codes: DOUBT of sum and bias, of which each is below the other's 256
        assert (np.abs(values % 1 - 0.5)[wrong > 0] <= DOUBT * 3 * 256).all()
        assert wrong.max() <= 1
        moved += int(np.count_nonzero(wrong)) / np.count_nonzero((values > first) & (values < last))
    assert moved / 50 <= MAX_DOUBTS


@given(
    act_bits=st.integers(2, 4),
    signed=st.booleans(),
    count=st.integers(1, 20),
    unit=st.sampled_from([-1, 0.5, -0.5, 0.25, 0.125, 0.75, 1.5]),
    eighths=st.integers(-40, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_ties_go_to_the_even_code(act_bits, signed, count, unit, eighths, seed) -> None:
    # everything is a multiple of 1/8, and exact in floats of either width
    codes = np.random.default_rng(seed).integers(-4, 4, (1, count))
    grid = Grid(act_bits, signed)
    first, last = grid.quant_min, grid.quant_max
    step, outputs = np.float32(1), Outputs(np.float32(1), first, last)
    inputs = Inputs(step, first, last, last - first)
    found = find_biases(np.array([unit]), np.array([eighths / 8]), codes, inputs, outputs)
    if found is None:
        return
    ends = codes * first, codes * last
    reach = np.arange(np.minimum(*ends).sum(), np.maximum(*ends).sum() + 1)
    expected = np.clip(np.round(reach * unit + eighths / 8), first, last)
    n, whole, fine = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
    assert np.array_equal(runtime_codes(n * reach, whole, fine, step, outputs), expected)


def test_scales_that_are_powers_of_two_tie_and_are_found() -> None:
    codes, reach = np.array([[3, 1, -2, 1]]), np.arange(-14, 36)
    outputs, inputs = Outputs(np.float32(1), 0, 7), Inputs(np.float32(1), 0, 7, 7)
    found = find_biases(np.array([0.5]), np.array([0.0]), codes, inputs, outputs)
    assert found is not None
    n, whole, fine = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
    computed = runtime_codes(n * reach, whole, fine, np.float32(1), outputs)
    assert np.array_equal(computed, np.clip(np.round(reach * 0.5), 0, 7))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_at_few_bits_they_are_found_for_nearly_every_channel(bits) -> None:
    rng = np.random.default_rng(0)
    top = 2**bits - 1
    found = 0
    for _ in range(200):
        codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (1, 64))
        spread = np.sqrt((codes**2).sum()) * top / 3
        scale = np.array([top / 2.5 / spread])
        outputs = Outputs(np.float32(1), 0, top)
        inputs = Inputs(np.float32(1), 0, top, top)
        found += find_biases(scale, rng.normal(0, 2, 1), codes, inputs, outputs) is not None
    assert found >= 199


def test_a_rounded_bias_would_move_codes() -> None:
    # the reason for all of this: one unit of the accumulator is a quarter of an output code, and
    # the bias, 2.4 units, is no whole number of them
    codes = np.array([[4, -4, 3, 2]])
    reach = np.arange(-28, 64)
    outputs = Outputs(np.float32(1), 0, 7)
    expected, undecided = trained_codes(reach, 0.25, np.float32(1), 0.6, outputs)
    assert not undecided.any()
    rounded = runtime_codes(reach, round(0.6 / 0.25), np.float32(0.25), np.float32(1), outputs)
    assert (rounded != expected).sum() == 4
    inputs = Inputs(np.float32(1), 0, 7, 7)
    found = find_biases(np.array([0.25]), np.array([0.6]), codes, inputs, outputs)
    assert found is not None
    n, whole, fine = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
    assert (runtime_codes(n * reach, whole, fine, np.float32(1), outputs) == expected).all()


def test_sums_that_older_processors_can_not_hold_are_refused() -> None:
    outputs = Outputs(np.float32(1), 0, 7)
    codes = np.array([[127, -128]])
    wide = Inputs(np.float32(1), 0, 255, 255)  # 2 * 255 * 127 does not fit into int16
    assert find_biases(np.array([1e-3]), np.array([0.0]), codes, wide, outputs) is None


@pytest.mark.parametrize("scale", [0.0, 1e-300, -1e-30, 1e-12, -1e-9, 2e-6])
@pytest.mark.parametrize("bias", [-3.2, 0.0, 0.5, 2.499, 7.0, 1e6])
@pytest.mark.parametrize("high", [7, 255])
def test_a_dead_channel_has_one_code_or_two(scale, bias, high) -> None:
    # what a batch norm whose factor went to nothing leaves: in units of 1e-30 no bias is an integer
    codes = np.random.default_rng(0).integers(-4, 4, (1, 500))
    inputs, outputs = Inputs(np.float32(1), 0, 15, 15), Outputs(np.float32(1), 0, high)
    found = find_biases(np.array([scale]), np.array([bias]), codes, inputs, outputs)
    assert found is not None
    low, top = int(np.minimum(codes * 15, 0).sum()), int(np.maximum(codes * 15, 0).sum())
    reach = np.arange(low, top + 1)
    expected, undecided = trained_codes(reach, scale, np.float32(1), bias, outputs)
    n, whole, fine = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
    computed = runtime_codes(n * reach, whole, fine, np.float32(1), outputs)
    assert (computed == expected)[~undecided].all()
    assert computed.max() - computed.min() <= 1
    assert abs(inputs.scale * fine) >= np.finfo(np.float32).tiny


def test_an_output_of_one_code_needs_no_threshold() -> None:
    inputs, outputs = Inputs(np.float32(1), 0, 7, 7), Outputs(np.float32(1), 3, 3)
    found = find_biases(np.ones(1), np.ones(1), np.ones((1, 3)), inputs, outputs)
    assert found is not None
    n, whole, fine = int(found.multiple[0]), int(found.bias[0]), found.scale[0]
    computed = runtime_codes(n * np.arange(22), whole, fine, np.float32(1), outputs)
    assert (computed == 3).all()


def test_sums_of_many_products_are_no_obstacle() -> None:
    # a projection of MobileNetV2: the largest sum there could be is twenty times the last threshold
    rng = np.random.default_rng(0)
    inputs = Inputs(np.float32(1), 0, 15, 15)
    outputs = Outputs(np.float32(1), -8, 7)
    found = 0
    for _ in range(50):
        codes = rng.normal(0, 3, (1, 960)).round().clip(-8, 7).astype(np.int64)
        unit, bias = rng.uniform(0.002, 0.02, 1), rng.normal(0, 1, 1)
        found += find_biases(unit, bias, codes, inputs, outputs) is not None
    assert found == 50
