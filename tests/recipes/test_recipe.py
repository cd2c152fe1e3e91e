"""The recipe's sections: what they refuse, and what they become."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from quiesce.recipes.cure_section import CureConfig
from quiesce.recipes.recipe import Recipe
from quiesce.recipes.sections import (
    BatchNormConfig,
    CalibrationConfig,
    FloatStageConfig,
    LrScheduleConfig,
    OptimizerConfig,
    RampConfig,
    SchemeConfig,
    TrackerConfig,
)
from quiesce.recipes.trainer_section import TrainerConfig

OUT_OF_RANGE = [
    (SchemeConfig, {"weight_bits": 1}, "must be 2 to 8, got 1"),
    (SchemeConfig, {"act_bits": 9}, "must be 2 to 8, got 9"),
    (SchemeConfig, {"first_last_bits": 0}, "must be 2 to 8, got 0"),
    (CalibrationConfig, {"batches": 0}, "`batches` must be at least 1, got 0"),
    (TrackerConfig, {"momentum": 0.0}, "`momentum` must be above 0 and below 1, or null, got 0.0"),
    (TrackerConfig, {"momentum": 1.0}, "`momentum` must be above 0 and below 1, or null, got 1.0"),
    (RampConfig, {"begin": -0.1}, "`begin` must be 0 to below 1, got -0.1"),
    (RampConfig, {"begin": 1.0}, "the training ends at 1, before the schedule begins"),
    (CureConfig, {"kind": "dampen", "strength": RampConfig(start=-1.0)}, "`strength.start`"),
    (CureConfig, {"kind": "freeze", "threshold": RampConfig(start=0.1, end=0.0)}, "got 0.0"),
    (CureConfig, {"kind": "freeze", "threshold": RampConfig(start=1.1, end=0.1)}, "got 1.1"),
    (CureConfig, {"kind": "freeze", "max_bits": 1}, "`max_bits` must be 2 to 8, got 1"),
    (CureConfig, {"kind": "dampen", "max_bits": 3}, "`max_bits` is used by kind freeze"),
    (CureConfig, {"kind": "trs", "transitions": RampConfig(start=-0.1)}, "`transitions.start`"),
    (CureConfig, {"kind": "trs", "eta": 0.0}, "`eta` must be above 0, got 0.0"),
    (CureConfig, {"kind": "osci_reset", "window": 0}, "`window` must be at least 1, got 0"),
    (CureConfig, {"kind": "osci_reset", "period": 50}, "`period` must be above window"),
    (CureConfig, {"kind": "osci_reset", "begin": 1.0}, "`begin` must be 0 to below 1, got 1.0"),
    (CureConfig, {"kind": "freeze", "target": 1.0}, "`target` must be above 0 and below 1"),
    (CureConfig, {"kind": "dampen", "target": 0.0}, "`target` must be above 0 and below 1"),
    (CureConfig, {"kind": "trs", "target": 0.1}, "`target` is used by kind freeze or dampen"),
    (
        CureConfig,
        {"kind": "freeze", "target": 0.1, "threshold": RampConfig(start=0.2)},
        "`target` and `threshold` are both set",
    ),
    (
        CureConfig,
        {"kind": "dampen", "target": 0.1, "strength": RampConfig(end=0.2)},
        "`target` and `strength` are both set",
    ),
    (CureConfig, {"kind": "trs", "ratio": 4.0}, "`ratio` is used by kind osci_reset"),
    (CureConfig, {"kind": "cga", "boundary_range": 0.6}, "`boundary_range` must be above 0 and"),
    (CureConfig, {"correction_batches": 0}, "`correction_batches` must be at least 1, or null"),
    (CureConfig, {"correction_lr": 0.0}, "`correction_lr` must be above 0, got 0.0"),
    (CureConfig, {"kind": "q_ramping", "alpha": 0.0}, "`alpha` must be above 0, got 0.0"),
    (CureConfig, {"kind": "q_ramping", "beta": 0}, "`beta` must be at least 1, got 0"),
    (CureConfig, {"kind": "trs", "window": 9}, "`window` is used by kind osci_reset or q_ramping"),
    (CureConfig, {"kind": "none", "aggregation": "sum"}, "`aggregation` is used by kind dampen"),
    (OptimizerConfig, {"lr": 0.0}, "`lr` must be above 0, got 0.0"),
    (OptimizerConfig, {"momentum": 1.0}, "`momentum` must be 0 to below 1, got 1.0"),
    (OptimizerConfig, {"weight_decay": -1.0}, "`weight_decay` must be 0 or more, got -1.0"),
    (OptimizerConfig, {"kind": "adam", "nesterov": True}, "`nesterov` needs kind sgd"),
    (LrScheduleConfig, {"end": 2.0}, "`end` must be 0 to 1, got 2.0"),
    (LrScheduleConfig, {"warmup": 1.0}, "`warmup` must be 0 to below 1, got 1.0"),
    (FloatStageConfig, {"epochs": 0}, "`epochs` must be at least 1, got 0"),
    (BatchNormConfig, {"batches": 0}, "`batches` must be at least 1, got 0"),
    (TrainerConfig, {"max_epochs": 0}, "`max_epochs` must be at least 1, got 0"),
    (TrainerConfig, {"max_steps": 0}, "`max_steps` must be -1 or at least 1, got 0"),
    (TrainerConfig, {"gradient_clip_val": 0.0}, "`gradient_clip_val` must be above 0, got 0.0"),
    (TrainerConfig, {"limit_train_batches": 0}, "must be at least 1 batch, got 0"),
    (TrainerConfig, {"limit_val_batches": 1.5}, "must be a share above 0 and at most 1, got 1.5"),
    (TrainerConfig, {"strategy": "ddp_spawn"}, "which spawn does not, got ddp_spawn; use ddp"),
    (TrainerConfig, {"strategy": "fsdp"}, "which fsdp does not, got fsdp; use ddp"),
    (Recipe, {"name": "x", "version": 2}, "`version` must be 1 for this quiesce, got 2"),
    (Recipe, {"name": "x", "seed": -1}, "`seed` must be 0 to 2^63 - 1, got -1"),
    (Recipe, {"name": "x", "seed": 2**63}, f"`seed` must be 0 to 2^63 - 1, got {2**63}"),
    (Recipe, {"name": "a/b"}, "`name` must be a word without slashes, got 'a/b'"),
]


@pytest.mark.parametrize(("section", "fields", "message"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(section, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        section(**fields)


@pytest.mark.parametrize("name", ["devices", "num_nodes", "log_every_n_steps"])
def test_trainer_fields_are_options_of_lightning(name):
    from lightning import Trainer

    assert hasattr(TrainerConfig(), name)
    assert name in Trainer.__init__.__wrapped__.__annotations__


def test_the_default_folder_is_made_of_name_and_seed():
    recipe = Recipe(name="mine", seed=7)
    assert recipe.folder == Path("runs", "mine-seed7")
    assert replace(recipe, run="~/there").folder == Path.home() / "there"


def test_a_tree_survives_yaml_and_json():
    tree = Recipe(name="mine").tree()
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree
    assert json.loads(json.dumps(tree)) == tree
