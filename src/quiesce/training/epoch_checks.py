"""Checks the epochs of a run for settings that are probably unintended."""

from math import ceil

from quiesce.data import Data
from quiesce.recipes.recipe import Recipe
from quiesce.training.scores import batches_within

FEWEST_STEPS = 10
"""Optimizer steps of an epoch below which a warning is given."""

MOST_LEFT_OUT = 0.1
"""Share of the training images, left out of each epoch, above which a warning is given."""


def odd_epochs(recipe: Recipe, data: Data) -> list[str]:
    """Return a warning for an epoch of very few steps, and one for many images left out."""
    size, count = recipe.data.batch_size, len(data.train)
    images = len(data.train.sampler)  # pyright: ignore[reportArgumentType]
    left_out = images - count * size
    taken = batches_within(recipe.trainer.limit_train_batches, count)
    steps = ceil(taken / recipe.trainer.accumulate_grad_batches)
    warnings = []
    if steps < FEWEST_STEPS:
        warnings.append(
            f"warning: an epoch is only {steps} optimizer step{'s' if steps != 1 else ''} "
            f"({images} images in batches of {size}); lower data.batch_size, or raise "
            "trainer.max_epochs"
        )
    if left_out > MOST_LEFT_OUT * images:
        warnings.append(
            f"warning: batches of {size} leave out {left_out} of {images} training images in each "
            "epoch, because a smaller last batch is dropped; choose another data.batch_size"
        )
    return warnings
