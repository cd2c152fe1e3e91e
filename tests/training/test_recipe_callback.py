"""From a recipe's cure to quiesce's, over the steps of the run."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

import quiesce as qs
from integrations.test_quiesce_callback import Module, fit
from integrations.test_quiesce_callback import pytestmark as pytestmark
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.sections import CureConfig, RampConfig
from quiesce.training.recipe_callback import RecipeCallback, cure_level, make_cures


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
    assert logged == [callback._level(step) for step in steps.seen]
    assert logged[-1] != callback._level(29)  # that of the last batch, had none been skipped
