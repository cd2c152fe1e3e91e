"""Recording in whole runs: the files, the new columns, and the same bits with and without."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from quiesce.errors import RecipeError
from quiesce.recipes.reading import read_recipe
from quiesce.training.run import run
from support.tiny import RECORDED

STEPS = ["--trainer.max_steps=6"]
NOTHING = ["--recording.layers=0", "--recording.trajectory_steps=0", "--recording.averages=false"]


def train(name, folder, flags):
    recipe = read_recipe(name, [*flags, f"--run={folder}"])
    run(recipe)
    return recipe.folder


def columns(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope="session")
def recorded(trained):
    return trained(*RECORDED)


def test_a_run_leaves_the_files_of_a_recording(recorded):
    names = {path.name for path in recorded.iterdir()}
    assert names >= {"layers.csv", "batchnorm.csv", "batchnorm_loss.csv", "trajectories.npz"}
    layers = columns(recorded / "layers.csv")
    assert set(layers["step"]) == set("123456")
    assert "blocks.0.depthwise.0" in layers["layer"]
    norms = columns(recorded / "batchnorm.csv")
    assert set(norms["step"]) == set("246")
    assert set(norms["kind"]) == {"full", "depth-wise", "point-wise"}


def test_a_network_ends_on_the_same_bits_with_and_without(recorded, tiny_flags, tmp_path):
    plain = train("mnist_freeze_w3a3", tmp_path / "run", [*tiny_flags, *STEPS, *NOTHING])
    assert not (plain / "layers.csv").exists()
    assert not (plain / "trajectories.npz").exists()
    one, other = (load_file(each / "network.safetensors") for each in (recorded, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_metrics_tell_the_learning_rate_of_each_step(tiny_flags, tmp_path):
    flags = [*tiny_flags, *STEPS, "--lr_schedule.kind=linear", "--lr_schedule.end=0.4"]
    folder = train("mnist_lsq_w3a3", tmp_path / "run", flags)
    found = columns(folder / "metrics.csv")
    rates = [float(each) for each in found["lr"] if each]
    assert rates == pytest.approx([0.05 * (1 - 0.6 * step / 6) for step in range(6)])
    assert "cure" not in found or set(found["cure"]) == {""}


def test_metrics_tell_the_strength_of_each_step(tiny_flags, tmp_path):
    flags = ["--cure.strength.schedule=linear", "--cure.strength.end=0.6"]
    flags = [*tiny_flags, *STEPS, *flags, "--cure.strength.begin=0.0", "--cure.strength.start=0.0"]
    folder = train("mnist_dampen_w3a3", tmp_path / "run", flags)
    found = columns(folder / "metrics.csv")
    level = {s: c for s, c, lr in zip(found["step"], found["cure"], found["lr"], strict=True) if lr}
    assert level.pop("0") == ""  # off: of strength 0
    assert [float(each) for each in level.values()] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_constant_threshold_is_told_from_the_first_step(tiny_flags, tmp_path):
    flags = ["--cure.threshold.schedule=constant", "--cure.threshold.start=0.5"]
    flags = [*tiny_flags, *STEPS, *flags, "--cure.threshold.begin=0.0", "--cure.threshold.end=0.5"]
    folder = train("mnist_freeze_w3a3", tmp_path / "run", flags)
    found = [each for each in columns(folder / "metrics.csv")["cure"] if each]
    assert [float(each) for each in found] == [0.5] * 6


def test_tensorboard_gets_scalars_and_histograms(recorded):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(recorded / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "offsets/blocks.0.depthwise.0" in tags["histograms"]
    assert {"lr", "cure", "oscillating/head.0", "batchnorm/loss_running"} <= set(tags["scalars"])


def test_a_layer_that_is_not_there_is_refused_before_a_folder_is_made(tiny_run):
    recipe = read_recipe("mnist_lsq_w3a3", [*tiny_run, "--recording.trajectory_layer=block.0"])
    with pytest.raises(RecipeError, match=r"recording\.trajectory_layer"):
        run(recipe)
    assert not recipe.folder.exists()
