"""Recipes that come with quiesce run: two steps on tiny made-up images."""

import pytest

from quiesce.recipes.reading import read_recipe
from quiesce.training.run import run

FAST = (
    *("mnist_lsq_w3a3", "mnist_dampen_w2a2", "mnist_freeze_w4a4"),
    "mnist_trs_w3a3",
    "mobilenetv3_small_dampen_w3a3",
)
SLOW = (
    *("mnist_osci_reset_w3a3", "mnist_q_ramping_w3a3", "mnist_cga_w3a3", "mnist_correct_w3a3"),
    *("resnet18_lsq_w3a3", "efficientnet_lite0_freeze_w4a4", "mobilenetv2_dampen_w4a4"),
    "emoji_freeze_w2a4",
)
"""Every cure and every network; test_reading.py reads all recipes."""


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_two_steps_of(name, tiny_run):
    recipe = read_recipe(name, [*tiny_run, "--data.image_size=32", "--model.weights=random"])
    summary = run(recipe)
    assert summary["name"] == name
    assert summary["steps"] == 2
    assert summary["oscillation"]["low_bit"]["weights"] > 30_000
    assert ("corrected" in summary["top1_percent"]) == ("correct" in name)
    assert (recipe.folder / "network.safetensors").exists()
