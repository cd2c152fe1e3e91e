"""Network and tracker from a checkpoint: exactly what the run had in memory."""

import copy

import pytest
import torch

import quiesce as qs
from quiesce.after_training.restored import restore
from quiesce.errors import CheckpointError, RecipeError
from quiesce.recipes.reading import read_recipe, write_recipe
from quiesce.training.display import Display
from quiesce.training.job import load
from quiesce.training.run import run
from quiesce.training.stages import float_stage, quantize, train
from support.states import assert_same_state

STEPS = "--trainer.max_steps=6"


@pytest.fixture(scope="module")
def job(tiny_flags, tmp_path_factory):
    """A run whose network and tracker are still at hand, before re-estimation."""
    folder = tmp_path_factory.mktemp("restoring") / "run"
    recipe = read_recipe("mnist_freeze_w3a3", [*tiny_flags, STEPS, f"--run={folder}"])
    job = load(recipe, Display())
    folder.mkdir()
    (folder / "recipe.yaml").write_text(write_recipe(recipe))
    float_stage(job)
    quantize(job)
    train(job)
    return job


def test_the_network_has_the_weights_and_running_statistics_of_the_last_step(job):
    restored = restore(job.recipe.folder)
    assert_same_state(dict(restored.network.state_dict()), dict(job.network.state_dict()))
    assert not restored.finished


def test_the_tracker_goes_on_where_it_was(job):
    restored, tracker = restore(job.recipe.folder), job.tracking.tracker
    assert restored.tracker.steps == 6
    names = [weight.name for weight in restored.tracker.weights]
    assert restored.prefix == "network."
    assert names == [weight.name for weight in tracker.weights]
    assert_same_state(restored.tracker.state_dict(), tracker.state_dict())
    for name in names:
        assert torch.equal(restored.tracker.frequency(name), tracker.frequency(name))
    restored.tracker.step()
    assert restored.tracker.steps == 7


def test_training_batches_are_those_that_the_run_re_estimates_on(job):
    measuring = restore(job.recipe.folder).measuring(Display())
    ours, theirs = ([x for x, _ in m.training("", 3)] for m in (measuring, job.measuring))
    assert len(ours) == 3
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_batches_are_the_same_each_time(job):
    measuring = restore(job.recipe.folder).measuring(Display())
    first, again = (next(measuring.training("", 1))[0] for _ in range(2))
    assert torch.equal(first, again)


def test_a_network_without_batch_norm_has_nothing_to_re_estimate(tiny_run):
    flags = [*tiny_run, "--model.name=test_vit", "--data.image_size=32"]
    run(recipe := read_recipe("mnist_lsq_w3a3", flags))
    restored = restore(recipe.folder)
    assert restored.finished
    with restored.reestimated(Display()) as kl:
        assert kl == {}


class Users(torch.nn.Module):
    """Stands for a user's LightningModule that calls its network by another name."""

    def __init__(self, network):
        super().__init__()
        self.net = network


def test_a_checkpoint_of_a_users_module_does_with_its_recipe(job, tmp_path):
    users = Users(copy.deepcopy(job.network))
    weights = qs.quantized_weights(users)
    control = qs.Control(
        torch.optim.SGD(users.parameters(), lr=0.1), weights, qs.OscillationTracker(weights)
    )
    control.tracker.step()
    content = {"state_dict": users.state_dict(), "callbacks": {"Any": control.state_dict()}}
    torch.save(content, tmp_path / "theirs.ckpt")
    restored = restore(tmp_path / "theirs.ckpt", str(job.recipe.folder / "recipe.yaml"))
    assert restored.tracker.steps == 1
    assert restored.prefix == "net."
    assert_same_state(dict(restored.network.state_dict()), dict(users.net.state_dict()))


def test_a_checkpoint_needs_its_recipe(job):
    with pytest.raises(RecipeError, match="a checkpoint needs its recipe: --recipe"):
        restore(job.recipe.folder / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "is not a checkpoint of a Trainer"),
        ({"state_dict": {}, "callbacks": {"A": {}}}, "holds no oscillation tracker"),
    ],
)
def test_a_file_that_is_no_such_checkpoint(content, told, job, tmp_path):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=told):
        restore(tmp_path / "other.ckpt", str(job.recipe.folder / "recipe.yaml"))


def test_a_tracker_of_another_version_is_no_surprise(job, tmp_path):
    content = torch.load(job.recipe.folder / "checkpoints" / "last.ckpt", weights_only=True)
    del content["callbacks"]["RecipeCallback"]["tracker"]["steps"]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="it lacks 'steps'"):
        restore(tmp_path / "other.ckpt", str(job.recipe.folder / "recipe.yaml"))
