"""A diagnosis made later from files is the one that the run wrote at its end, to the digit."""

import json
import shutil

import pytest

from quiesce.after_training.diagnose import diagnose
from quiesce.recipes.reading import read_recipe
from quiesce.training.run import run
from support.tiny import RECORDED

LENGTHS = {
    "whole epochs": ("mnist_freeze_w3a3", "--trainer.max_steps=-1", "--trainer.max_epochs=2"),
    "a part of one": RECORDED,
}
"""How training ends decides which batches statistics are re-estimated on."""


@pytest.fixture(params=LENGTHS)
def finished(request, trained, tmp_path):
    folder = shutil.copytree(trained(*LENGTHS[request.param]), tmp_path / "finished")
    return folder, json.loads((folder / "summary.json").read_text())


def test_it_is_the_one_that_the_run_wrote(finished):
    folder, _ = finished
    written = (folder / "diagnosis.json").read_bytes()
    tree = json.loads(json.dumps(diagnose(folder).tree()))
    assert (folder / "diagnosis.json").read_bytes() == written
    assert json.loads(written) == tree


def test_it_agrees_with_the_summary(finished):
    folder, summary = finished
    tree = json.loads((folder / "diagnosis.json").read_text())
    assert (tree["version"], tree["step"], tree["finished"]) == (1, summary["steps"], True)
    for layer, told in zip(tree["layers"], summary["oscillation"]["layers"], strict=True):
        shared = set(layer) & set(told)
        assert shared >= {"name", "oscillating", "frozen", "flips_per_step", "distance_ratio"}
        assert {key: layer[key] for key in shared} == {key: told[key] for key in shared}
        assert (layer["kind"] == "depth-wise") == told["depthwise"]
        assert sum(layer["codes"]["counts"]) == layer["weights"]
    found = {norm["name"]: norm["kl_max"] for norm in tree["batchnorm"]}
    assert found == {name: kl["max"] for name, kl in summary["batchnorm_kl"].items()}
    top1 = tree["accuracy"]["top1_percent"]
    assert top1["running"] == summary["top1_percent"]["trained"]
    assert top1["reestimated"] == summary["top1_percent"]["reestimated"]


def test_batch_norms_are_told_with_their_layers(finished):
    folder, _ = finished
    norms = json.loads((folder / "diagnosis.json").read_text())["batchnorm"]
    feeds = {norm["name"]: (norm["feeds_from"], norm["kind"]) for norm in norms}
    assert feeds["blocks.0.depthwise.1"] == ("blocks.0.depthwise.0", "depth-wise")
    assert feeds["stem.1"] == ("stem.0", "full")


def test_a_recipe_that_re_estimates_nothing_is_honoured(finished):
    folder, _ = finished
    diagnosis = diagnose(folder, flags=["--batchnorm.batches=null"])
    assert diagnosis.batchnorm == ()
    assert diagnosis.accuracy.top1_percent["reestimated"] is None
    assert diagnosis.accuracy.train_loss["running"] > 0


def test_a_run_that_re_estimates_nothing_says_the_same_later(tiny_run):
    run(recipe := read_recipe("mnist_lsq_w3a3", [*tiny_run, "--batchnorm.batches=null"]))
    written = (recipe.folder / "diagnosis.json").read_bytes()
    diagnose(recipe.folder)
    assert (recipe.folder / "diagnosis.json").read_bytes() == written
