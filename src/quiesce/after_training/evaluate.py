"""Measures the network of a finished run again, for `quiesce evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quiesce.after_training.finished import read_finished
from quiesce.training.display import Display


class Evaluation(NamedTuple):
    """Scores of a network on the test images."""

    top1_percent: float
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
    measuring, name = run.measuring(display), run.recipe.metric
    top1 = measuring.top1(run.network, "trained")
    return Evaluation(top1, measuring.metric(name, run.network, "trained") if name else None)
