"""From a recipe's cure to quiesce's, over the steps of the run."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

import quiesce as qs
from integrations.test_quiesce_callback import Module, fit
from integrations.test_quiesce_callback import pytestmark as pytestmark
from quiesce.recipes.cure_section import CureConfig
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.sections import RampConfig
from quiesce.training.recipe_callback import RecipeCallback
from quiesce.training.recipe_cures import make_cures


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


def test_every_field_of_a_later_cure_reaches_it():
    ramp = RampConfig(schedule="linear", start=0.01, end=0.002)
    (trs,) = make_cures(CureConfig(kind="trs", transitions=ramp, eta=0.5), 100)
    assert isinstance(trs, qs.TRS)
    assert (trs.factor, trs.eta) == (qs.linear(0.01, 0.002, 100, 0.25), 0.5)
    (published,) = make_cures(CureConfig(kind="trs"), 100)
    assert published.factor == qs.cosine(5e-3, 0.0, 100, 0.0)
    config = CureConfig(kind="osci_reset", ratio=4.0, period=30, window=10, begin=0.1)
    (reset,) = make_cures(config, 100)
    assert isinstance(reset, qs.OsciReset)
    assert (reset.ratio(0), reset.period, reset.window, reset.begin) == (4.0, 30, 10, 10)
    config = CureConfig(kind="cga", boundary_range=0.007, begin=0.8, max_bits=3)
    (annealing,) = make_cures(config, 100)
    assert isinstance(annealing, qs.CGA)
    assert [annealing.level(step) for step in (79, 80)] == [None, 0.007]
    config = CureConfig(kind="q_ramping", alpha=4.0, beta=2, period=30, window=10, begin=0.1)
    (ramping,) = make_cures(config, 100)
    assert isinstance(ramping, qs.QRamping)
    assert (ramping.alpha(0), ramping.beta) == (4.0, 2)
    assert (ramping.period, ramping.window, ramping.begin) == (30, 10, 10)
    assert [type(cure) for cure in make_cures(CureConfig(snap="average"), 100)] == [qs.Snap]
    assert make_cures(CureConfig(snap="learned"), 100) == []


def test_codes_are_averaged_unless_told_otherwise():
    (cure,) = make_cures(CureConfig(kind="freeze"), 100)
    assert cure.average == "code"


def test_the_level_is_that_of_the_cure_in_each_step():
    ramp = RampConfig(schedule="linear", start=0.2, end=0.4, begin=0.5)
    freeze = CureConfig(kind="freeze", threshold=ramp)
    dampen = CureConfig(kind="dampen", strength=ramp)
    for config in (freeze, dampen):
        (cure,) = make_cures(config, 100)
        assert cure.level(75) == pytest.approx(0.3)
        assert cure.level(100) == 0.4


def test_there_is_no_level_while_a_cure_is_off():
    waiting = CureConfig(kind="freeze", threshold=RampConfig(start=0.2, end=0.1, begin=0.5))
    assert make_cures(waiting, 100)[0].level(49) is None
    rising = CureConfig(kind="dampen", strength=RampConfig(end=0.1, begin=0.5))
    assert make_cures(rising, 100)[0].level(49) is None


class Steps(Callback):
    """Notes the step of the cures that each batch is for."""

    def __init__(self, tracking):
        self.tracking, self.seen = tracking, []

    def on_train_batch_start(self, *_):
        self.seen.append(self.tracking.control.step)


def test_the_level_that_is_logged_is_that_of_the_step_though_others_were_skipped():
    flags = ["--cure.kind=dampen", "--cure.strength.schedule=linear", "--cure.strength.start=0.1"]
    callback = RecipeCallback(read_recipe("mnist_dampen_w3a3", flags))
    module, steps, logged = Module(), Steps(callback), []
    module.log = lambda what, value: logged.append(value) if what == "cure" else None
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    half = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    fit(module, [callback, steps], max_epochs=5, plugins=[half], log_every_n_steps=1)
    assert 0 < callback.control.step < 30
    level = callback.cures[0].level
    assert logged == [level(step) for step in steps.seen]
    assert logged[-1] != level(29)  # that of the last batch, had none been skipped
