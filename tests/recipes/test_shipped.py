"""Recipes that come with quiesce run: two steps on tiny made-up images."""

import pytest

from quiesce.recipes.reading import read_recipe, shipped_recipes
from quiesce.training.run import run

FAST = {"mnist_lsq_w3a3", "mnist_dampen_w2a2", "mnist_freeze_w4a4", "mobilenetv3_small_dampen_w3a3"}
"""Every cure and bit width on the small network, and one network of timm; the rest is slow."""


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in shipped_recipes()
        if not name.startswith("emoji") or name.endswith("w2a4")  # others differ in bits alone
    ],
)
def test_two_steps_of(name, tiny_run):
    recipe = read_recipe(name, [*tiny_run, "--data.image_size=32", "--model.weights=random"])
    summary = run(recipe)
    assert summary["name"] == name
    assert summary["steps"] == 2
    assert summary["oscillation"]["low_bit"]["weights"] > 30_000
    assert (recipe.folder / "network.safetensors").exists()
