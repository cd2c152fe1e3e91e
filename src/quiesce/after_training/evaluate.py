"""Measures the network of a finished run again, for `quiesce evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quiesce.after_training.finished import read_finished
from quiesce.training.display import Display
from quiesce.training.scores import batches_within, top1_percent
from quiesce.training.user_metric import user_metric


class Evaluation(NamedTuple):
    """Scores of a network on the test images."""

    top1_percent: float
    """Accuracy in percent."""

    metric: float | None
    """Score by the metric of the recipe; None without one."""


def evaluate(folder: Path, flags: Sequence[str] = (), display: Display | None = None) -> Evaluation:
    """Rebuild the network of a run folder and measure it on the test images.

    Args:
        folder: The folder of a finished run.
        flags: Flags that override its recipe: ["--data.folder", "/elsewhere"].
        display: Where progress is shown; the caller enters its context. None shows nothing.

    Raises:
        RecipeError: The folder does not hold a finished run, or a flag is wrong.
        CheckpointError: The network's file is damaged or does not fit the recipe.
        DataError: The test images cannot be read.
    """
    run = read_finished(folder, flags)
    count = batches_within(run.recipe.trainer.limit_val_batches, len(run.data.test))
    shown = display or Display()
    top1 = top1_percent(run.network, shown.track(run.test_batches(), "top-1", count))
    if (name := run.recipe.metric) is None:
        return Evaluation(top1, None)
    batches = shown.track(run.test_batches(), "metric", count)
    return Evaluation(top1, user_metric(name, run.network, batches))
