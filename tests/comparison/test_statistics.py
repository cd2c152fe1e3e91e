"""Spreads and intervals against numbers worked by hand and against scipy's own tests."""

import numpy as np
import pytest
from scipy import stats

from quiesce.comparison.statistics import difference, spread


def test_a_spread_by_hand():
    found = spread([1.0, 2.0, 3.0, 6.0])
    assert (found.n, found.mean) == (4, 3.0)
    assert found.std == pytest.approx((14 / 3) ** 0.5)  # squares 4 + 1 + 0 + 9, over n - 1


def test_one_seed_has_no_deviation_and_none_has_no_spread():
    assert spread([2.0]).std is None
    assert spread([]) is None


def test_a_paired_difference_by_hand():
    found = difference({0: 1.0, 1: 2.0, 2: 3.0}, {2: 2.0, 0: 1.0, 1: 1.0})
    # differences 0, 1, 1: mean 2/3, standard error sqrt(1/3)/sqrt(3) = 1/3, t(2) = 4.3027
    assert found.value == pytest.approx(2 / 3)
    assert (found.low, found.high) == pytest.approx(
        (2 / 3 - 4.3027 / 3, 2 / 3 + 4.3027 / 3), abs=1e-4
    )
    assert (found.method, found.n) == ("paired", 3)


def samples(*sizes):
    noise = np.random.default_rng(0)
    return [noise.normal(loc, 1 + loc, size) for loc, size in enumerate(sizes)]


def test_a_paired_interval_is_scipys():
    one, other = samples(5, 5)
    found = difference(dict(enumerate(one)), dict(enumerate(other)))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_without_shared_seeds_the_interval_is_welchs():
    one, other = samples(4, 7)
    found = difference(dict(enumerate(one)), {100 + i: x for i, x in enumerate(other)})
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.method, found.n) == ("welch", 4)


def test_pairs_are_the_shared_seeds_alone():
    found = difference({0: 1.0, 1: 2.0, 7: 99.0}, {0: 0.0, 1: 1.0, 8: -99.0})
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert (found.method, found.n) == ("paired", 2)


@pytest.mark.parametrize("baseline", [{0: 1.0}, {5: 1.0}, {1: 0.0, 2: 2.0}])
def test_one_seed_has_no_interval(baseline):
    found = difference({0: 3.0}, baseline)
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert (found.method, found.n) == ("none", 1)


def test_samples_without_variance_have_an_interval_of_no_width():
    found = difference({0: 2.0, 1: 2.0}, {5: 1.0, 6: 1.0})
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def test_no_number_no_difference():
    assert difference({}, {0: 1.0}) is None
    assert difference({0: 1.0}, {}) is None
