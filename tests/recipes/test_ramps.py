"""Recipes' schedules end where they say."""

from itertools import pairwise

import pytest

import quiesce as qs
from quiesce.recipes.ramps import learning_rate_factor, ramp
from quiesce.recipes.sections import LrScheduleConfig, RampConfig

TOTAL = 200


@pytest.mark.parametrize(("shape", "made"), [("linear", qs.linear), ("cosine", qs.cosine)])
def test_a_ramp_is_the_schedule_of_its_name(shape, made):
    config = RampConfig(schedule=shape, start=0.1, end=0.01, begin=0.5)
    assert ramp(config, TOTAL) == made(0.1, 0.01, TOTAL, 0.5)


def test_a_constant_ramp_stays_at_its_start():
    assert ramp(RampConfig(schedule="constant", start=0.1, end=9.0), TOTAL) == qs.constant(0.1)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_rate_rises_to_1_falls_to_its_end_and_never_jumps(kind, warmup):
    factor = learning_rate_factor(LrScheduleConfig(kind=kind, end=0.2, warmup=warmup), TOTAL)
    rates = [factor(step) for step in range(TOTAL + 1)]
    top = round(warmup * TOTAL)
    assert rates[top] == pytest.approx(1.0)
    assert rates[TOTAL] == pytest.approx(0.2)
    assert rates == [*sorted(rates[:top]), *sorted(rates[top:], reverse=True)]
    assert 0 < rates[0]
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.06


def test_a_constant_rate_is_constant():
    factor = learning_rate_factor(LrScheduleConfig(kind="constant"), TOTAL)
    assert {factor(step) for step in range(TOTAL)} == {1.0}
