"""The network of a finished run, measured again."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from quiesce.errors import RecipeError
from quiesce.training.display import Display
from quiesce.training.folder import NETWORK, RECIPE
from quiesce.training.reading import read_recipe
from quiesce.training.restoring import load, untrained
from quiesce.training.scores import batches_within, top1_percent
from quiesce.weight_files import read_weights


def evaluate(folder: Path, flags: Sequence[str] = (), display: Display | None = None) -> float:
    """Rebuild the network of a run folder and measure it on the test images.

    Args:
        folder: What a run left behind.
        flags: Override its recipe: ["--data.folder", "/elsewhere"].
        display: Where progress is drawn, entered by the caller; None draws nothing.

    Returns:
        Top-1 in percent.

    Raises:
        RecipeError: The folder is not that of a finished run, or a flag is wrong.
        CheckpointError: The network's file is damaged or does not fit the recipe.
        DataError: The test images can not be read.
    """
    for name in (RECIPE, NETWORK):
        if not (folder / name).is_file():
            raise RecipeError(f"{folder} is not the folder of a finished run: it has no {name}")
    recipe = read_recipe(str(folder / RECIPE), flags)
    data, network = untrained(recipe)
    load(network, read_weights(folder / NETWORK), folder / NETWORK)
    count = batches_within(recipe.trainer.limit_val_batches, len(data.test))
    batches = (display or Display()).track(islice(data.test, count), "top-1", count)
    return top1_percent(network, batches)
