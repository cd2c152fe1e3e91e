"""From a recipe's cure to quiesce's, over the steps of the run."""

import quiesce as qs
from quiesce.training.cures import make_cures
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
