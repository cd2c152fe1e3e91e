"""The probe on a run that oscillates: what it measures, and that it leaves the run alone."""

import json
import shutil
from statistics import mean

import pytest
import torch

from quiesce.after_training.probe import Probe, ProbeConfig, probe
from quiesce.after_training.restored import restore
from quiesce.errors import RecipeError
from quiesce.recipes.reading import read_recipe
from quiesce.training.display import Display
from quiesce.training.run import run
from support.states import assert_same_state
from support.tiny import OSCILLATING

QUICK = ProbeConfig(samples=3, batches=2, steps=4)


@pytest.fixture
def finished(trained, tmp_path):
    return shutil.copytree(trained(*OSCILLATING), tmp_path / "finished")


def test_the_file_says_what_was_measured(finished):
    tree = probe(finished, QUICK)
    assert json.loads((finished / "probe.json").read_text()) == tree
    assert (tree["version"], tree["samples"], tree["step"]) == (1, 3, 12)
    assert tree["weights"] > 0
    sampled = tree["sampled"]
    losses, top1s = zip(*sampled["each"], strict=True)
    assert sampled["loss"]["mean"] == pytest.approx(mean(losses))
    assert (sampled["loss"]["best"], sampled["top1_percent"]["best"]) == (min(losses), max(top1s))
    assert len(set(losses)) == 3  # other codes, other losses
    assert tree["learned"]["steps"] == 4
    assert 0 <= tree["learned"]["changed"] <= tree["weights"]


def test_before_is_the_network_with_re_estimated_statistics(finished):
    tree = probe(finished, QUICK)
    accuracy = json.loads((finished / "diagnosis.json").read_text())["accuracy"]
    assert tree["before"]["top1_percent"] == accuracy["top1_percent"]["reestimated"]
    assert tree["before"]["loss"] == accuracy["train_loss"]["reestimated"]


def test_a_seed_draws_the_same_networks(finished):
    one, again = probe(finished, QUICK), probe(finished, QUICK)
    assert one == again
    other = probe(finished, ProbeConfig(samples=3, batches=2, steps=4, seed=1))
    assert other["sampled"] != one["sampled"]


def test_the_network_is_not_changed(finished):
    written = {name: (finished / name).read_bytes() for name in ("network.safetensors",)}
    restored = restore(finished)
    before = {name: tensor.clone() for name, tensor in restored.network.state_dict().items()}
    Probe(restored, QUICK, Display()).tree()
    assert_same_state(dict(restored.network.state_dict()), before)
    assert {name: (finished / name).read_bytes() for name in written} == written


@pytest.mark.slow
def test_learned_codes_are_better_on_the_batches_they_were_learned_on(finished):
    tree = probe(finished, ProbeConfig(samples=1, batches=2, steps=60))
    assert tree["learned"]["loss"] < tree["before"]["loss"]


def test_a_run_without_averages_is_refused(tiny_run):
    flags = [*tiny_run, "--recording.averages=false"]
    run(recipe := read_recipe("mnist_lsq_w3a3", flags))
    with pytest.raises(RecipeError, match=r"train with --recording\.averages true"):
        probe(recipe.folder, QUICK)


@pytest.mark.parametrize("name", ["samples", "batches", "steps"])
def test_numbers_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        ProbeConfig(**{name: 0})


def test_codes_are_drawn_in_the_layers_with_the_bits_of_the_scheme(finished):
    choices = Probe(restore(finished), QUICK, Display()).choices
    assert {choice.weight.grid.bits for choice in choices} == {3}
    assert all(torch.equal(c.lower, c.lower.round()) for c in choices)
