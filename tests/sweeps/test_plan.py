"""From sweeps to runs: names, recipes, and all that is refused told at once."""

from dataclasses import replace

import pytest

from quiesce.errors import RecipeError
from quiesce.recipes.reading import read_recipe
from quiesce.sweeps.plan import LONGEST, float_key, plan
from quiesce.sweeps.sweep import SHIPPED, Sweep, read_sweep, shipped_sweeps

QUICK = "mnist_dampen_w3a3"


def sweep(**fields):
    return Sweep(name="s", recipe=QUICK, **fields)


def test_a_grid_is_every_combination_with_every_seed():
    grid = {"cure.strength.end": [0.1, 0.2], "scheme.weight_bits": [3, 4]}
    runs = plan(sweep(grid=grid, seeds=(0, 5)))
    assert [run.name for run in runs[:3]] == [
        f"{QUICK}-end=0.1-weight_bits=3-seed0",
        f"{QUICK}-end=0.1-weight_bits=4-seed0",
        f"{QUICK}-end=0.2-weight_bits=3-seed0",
    ]
    assert [run.recipe.seed for run in runs] == [0] * 4 + [5] * 4
    last = runs[-1]
    assert last.fields == {"cure.strength.end": 0.2, "scheme.weight_bits": 4}
    assert (last.recipe.cure.strength.end, last.recipe.scheme.weight_bits) == (0.2, 4)
    assert last.recipe.cure.strength.begin == 0.25  # the rest of the recipe stays


def test_variants_change_fields_together_and_may_start_from_another_recipe():
    variants = {
        "plain": {"recipe": "mnist_lsq_w3a3"},
        "constant": {"cure.strength": {"schedule": "constant", "start": 0.3}},
    }
    plain, constant = plan(sweep(variants=variants))
    assert (plain.name, plain.recipe.name, plain.variant) == ("plain-seed0", "plain", "plain")
    assert plain.recipe.cure.kind == "none"
    assert constant.recipe.cure.strength.start == 0.3
    assert constant.recipe.cure.aggregation == "sum"


def test_flags_override_the_recipe_and_the_grid_overrides_flags():
    flags = ["--trainer.max_epochs=2", "--scheme.act_bits=8"]
    (run,) = plan(sweep(grid={"scheme.act_bits": [2]}), flags)
    assert (run.recipe.trainer.max_epochs, run.recipe.scheme.act_bits) == (2, 2)


def test_all_refused_combinations_are_told_at_once():
    grid = {"weights_optimizer.lr": [0.1, -1, "x"], "scheme.wieght_bits": [3]}
    with pytest.raises(RecipeError, match="3 of 3 combinations are refused: unknown field"):
        plan(sweep(grid=grid))
    del grid["scheme.wieght_bits"]
    with pytest.raises(RecipeError) as caught:
        plan(sweep(grid={**grid, "scheme.act_bits": [2, 3]}))
    told = str(caught.value)
    assert told.startswith("4 of 6 combinations are refused: ")
    assert "`lr` must be above 0, got -1.0" in told
    assert "`weights_optimizer.lr` must be a number, got x" in told
    assert told.count("and 1 more)") == 2


def test_values_that_are_one_value_are_refused():
    with pytest.raises(RecipeError, match="two combinations of the sweep are the same"):
        plan(sweep(grid={"weights_optimizer.lr": [0.1, "0.1"]}))


def test_names_of_folders_are_plain_and_short():
    grid = {"scheme.exclude": [["a/*"], ["b/*"]], "model.weights": ["x" * 300]}
    one, other = (run.name for run in plan(sweep(grid=grid)))
    assert one != other
    for name in (one, other):
        assert "/" not in name
        assert "*" not in name
        assert len(name) < LONGEST + 20


def test_runs_of_other_schedules_share_a_float_network_with_a_schedule_of_its_own():
    flags = ["--float_stage.epochs=2"]
    for decay, shared in (("same", False), ("cosine", True)):
        keys = {
            float_key(
                read_recipe(
                    "mnist_lsq_w3a3",
                    [*flags, f"--float_stage.lr_decay={decay}", f"--lr_schedule.kind={kind}"],
                )
            )
            for kind in ("constant", "linear")
        }
        assert (len(keys) == 1) == shared


def test_runs_share_a_float_network_where_its_training_is_the_same():
    (run,) = plan(sweep())
    recipe = run.recipe
    same = plan(sweep(grid={"scheme.act_bits": [2]}), ["--trainer.max_epochs=2"])[0].recipe
    assert float_key(recipe) == float_key(same)
    for other in (
        replace(recipe, seed=1),
        replace(recipe, data=replace(recipe.data, batch_size=5)),
        replace(recipe, float_stage=replace(recipe.float_stage, epochs=5)),
    ):
        assert float_key(other) != float_key(recipe)
    assert float_key(replace(recipe, float_stage=replace(recipe.float_stage, epochs=None))) is None


@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_recipe_of(name):
    described = read_sweep(SHIPPED / f"{name}.yaml")
    runs = plan(described, ["--data.folder=/pictures"])
    assert len(runs) == len(described.variants) * len(described.seeds)
