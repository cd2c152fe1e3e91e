"""From a recipe's cure to quiesce's, over the steps of the run."""

import pytest

import quiesce as qs
from quiesce.training.cures import cure_level, make_cures
from quiesce.training.sections import CureConfig, RampConfig


def test_no_cure():
    assert make_cures(CureConfig(), 100) == []


def test_dampening_follows_its_ramp():
    config = CureConfig(kind="dampen", strength=RampConfig(end=0.5), aggregation="mean")
    (cure,) = make_cures(config, 100)
    assert isinstance(cure, qs.Dampening)
    assert cure.strength == qs.cosine(0.0, 0.5, 100, 0.25)
    assert cure.aggregation == "mean"


def test_freezing_follows_its_ramp():
    config = CureConfig(
        kind="freeze",
        threshold=RampConfig(schedule="linear", start=0.2, end=0.1, begin=0.5),
        average="last",
        max_bits=3,
    )
    (cure,) = make_cures(config, 100)
    assert isinstance(cure, qs.Freezing)
    assert cure.threshold == qs.linear(0.2, 0.1, 100, 0.5)
    assert (cure.average, cure.max_bits) == (None, 3)


def test_codes_are_averaged_unless_told_otherwise():
    (cure,) = make_cures(CureConfig(kind="freeze"), 100)
    assert cure.average == "code"


def test_the_level_is_that_of_the_cure_in_each_step():
    ramp = RampConfig(schedule="linear", start=0.2, end=0.4, begin=0.5)
    freeze = CureConfig(kind="freeze", threshold=ramp)
    dampen = CureConfig(kind="dampen", strength=ramp)
    for config in (freeze, dampen):
        level = cure_level(config, 100)
        assert level(75) == pytest.approx(0.3)
        assert level(100) == 0.4


def test_there_is_no_level_while_a_cure_is_off():
    waiting = CureConfig(kind="freeze", threshold=RampConfig(start=0.2, end=0.1, begin=0.5))
    assert cure_level(waiting, 100)(49) is None
    rising = CureConfig(kind="dampen", strength=RampConfig(end=0.1, begin=0.5))
    assert cure_level(rising, 100)(49) is None
    assert cure_level(CureConfig(), 100)(99) is None
