"""Warnings about epochs that are likely not meant."""

import pytest

from quiesce.cli import main
from quiesce.data import build_data
from quiesce.recipes.reading import read_recipe
from quiesce.training.epoch_checks import odd_epochs


def warnings(*flags):
    recipe = read_recipe("mnist_lsq_w3a3", ["--data.name=made_up", "--data.image_size=8", *flags])
    return odd_epochs(recipe, build_data(recipe.data, seed=0))


@pytest.mark.parametrize(
    ("images", "batch", "more", "steps"),
    [
        (80, 8, (), None),
        (79, 8, (), 9),
        (8, 8, (), 1),
        (80, 8, ("--trainer.accumulate_grad_batches=2",), 5),
        (160, 8, ("--trainer.limit_train_batches=0.25",), 5),
        (160, 8, ("--trainer.limit_train_batches=7",), 7),
    ],
)
def test_fewer_than_ten_steps(images, batch, more, steps):
    flags = [f"--data.train_images={images}", f"--data.batch_size={batch}", *more]
    found = [each for each in warnings(*flags) if "optimizer step" in each]
    if steps is None:
        assert found == []
    else:
        (told,) = found
        assert f"only {steps} optimizer step" in told
        assert f"{images} images in batches of {batch}" in told


@pytest.mark.parametrize(("images", "left_out"), [(1990, 90), (199, 99), (1100, 0), (1110, 10)])
def test_many_images_left_out(images, left_out):
    found = warnings(f"--data.train_images={images}", "--data.batch_size=100")
    told = [each for each in found if "leave out" in each]
    assert bool(told) == (left_out > 0.1 * images)
    assert all(f"{left_out} of {images}" in each for each in told)


def test_training_says_it_once(tiny_run, capsys):
    assert main(["train", "mnist_lsq_w3a3", *tiny_run]) == 0
    err = capsys.readouterr().err
    assert err.count("warning: an epoch is only 4 optimizer steps") == 1
