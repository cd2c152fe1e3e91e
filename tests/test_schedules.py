"""Schedules: the reference values, the ends, and what they promise between them."""

import math
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.schedules import constant, cosine, linear

REFERENCE = np.load(Path(__file__).parent / "golden" / "reference.npz")
values = st.floats(-1e3, 1e3)
totals = st.integers(1, 10_000)
shares = st.floats(0, 1)


@pytest.mark.parametrize("key", [key for key in REFERENCE if key.startswith("schedule/")])
def test_cosine_equals_the_reference(key: str) -> None:
    start, end, begin = (float(part) for part in key.removeprefix("schedule/").split("_"))
    schedule = cosine(start, end, total=1000, begin=begin)
    np.testing.assert_allclose([schedule(t) for t in range(1000)], REFERENCE[key], rtol=1e-12)


@given(value=values, step=st.integers(0, 10**9))
def test_constant_is_its_value_at_every_step(value: float, step: int) -> None:
    assert constant(value)(step) == value


@pytest.mark.parametrize("make", [linear, cosine])
@given(start=values, end=values, total=totals, begin=shares)
def test_start_holds_before_begin_and_end_from_total_on(make, start, end, total, begin) -> None:
    schedule = make(start, end, total, begin)
    assert schedule.begin_step == begin * total
    if schedule.begin_step > 0:
        assert schedule(0) == start
        assert schedule(math.ceil(schedule.begin_step) - 1) == start
    assert schedule(total) == end
    assert schedule(10 * total) == end


@pytest.mark.parametrize("make", [linear, cosine])
@given(start=values, end=values, total=totals, begin=shares, data=st.data())
def test_moves_one_way_from_start_to_end(make, start, end, total, begin, data) -> None:
    schedule = make(start, end, total, begin)
    first = data.draw(st.integers(0, total))
    second = data.draw(st.integers(first, total))
    rounding = (
        4e-15 * (abs(start) + abs(end)) + 1e-300
    )  # of the three or four operations of a value
    rising = 1 if end >= start else -1
    path = [start, schedule(first), schedule(second), end]
    assert all(rising * (b - a) >= -rounding for a, b in pairwise(path))


@given(start=values, end=values, total=totals.map(lambda n: 4 * n))
def test_half_way_is_the_mean_of_the_ends(start: float, end: float, total: int) -> None:
    rounding = 4e-15 * (abs(start) + abs(end)) + 1e-300
    for schedule in (linear(start, end, total), cosine(start, end, total, begin=0.0)):
        assert schedule(total // 2) == pytest.approx((start + end) / 2, abs=rounding)


def test_linear_is_a_line_from_begin() -> None:
    schedule = linear(1.0, 3.0, total=8, begin=0.5)
    assert [schedule(t) for t in range(9)] == [1, 1, 1, 1, 1, 1.5, 2, 2.5, 3]


def test_defaults_wait_a_quarter_for_the_cosine_and_not_at_all_for_the_line() -> None:
    assert cosine(0, 1, total=100).begin_step == 25
    assert linear(0, 1, total=100).begin_step == 0


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": 0}, "`total` must be at least 1 optimizer step, got 0"),
        ({"begin": 1.5}, "`begin` must be 0 to 1, a share of `total`, got 1.5"),
        ({"begin": -0.1}, "`begin` must be 0 to 1"),
        ({"begin": math.nan}, "`begin` must be 0 to 1"),
        ({"start": math.inf}, "`start` must be a finite number, got inf"),
        ({"end": math.nan}, "`end` must be a finite number, got nan"),
    ],
)
def test_bad_arguments_are_named(make, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"start": 0.1, "end": 0.2, "total": 10, "begin": 0.5} | arguments)


@pytest.mark.parametrize("text", ["constant(0.5)", "cosine(0.1, 0.01, total=9, begin=0.25)"])
def test_repr_is_the_call_and_schedules_are_values(text: str) -> None:
    schedule = eval(text)
    assert repr(schedule) == text
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(schedule) == hash(eval(text))
