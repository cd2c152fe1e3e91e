"""How good a network is."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from quiesce.data import build_data
from quiesce.errors import CheckpointError, DataError, RecipeError
from quiesce.models import build_model
from quiesce.modes import inference
from quiesce.prepare import prepare
from quiesce.training.display import Display
from quiesce.training.folder import NETWORK, RECIPE
from quiesce.training.reading import read_recipe
from quiesce.weight_files import load_weights, read_weights


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
    data = build_data(recipe.data, seed=recipe.seed)
    start = replace(recipe.model, weights="random")
    shape = data.input_shape
    network = build_model(start, num_classes=len(data.classes), input_shape=shape)
    prepare(network, recipe.scheme.scheme(), torch.zeros(1, *shape))
    _load(network, folder / NETWORK)
    count = batches_within(recipe.trainer.limit_val_batches, len(data.test))
    batches = (display or Display()).track(islice(data.test, count), "top-1", count)
    return top1_percent(network, batches)


def _load(network: nn.Module, path: Path) -> None:
    try:
        load_weights(network, read_weights(path), source=path)
    except RuntimeError as error:  # of torch, with a line for each quantizer that does not fit
        first = str(error).partition("\n")[2].partition("\n")[0].strip()
        raise CheckpointError(f"{path}: {first or error}") from error


@torch.no_grad()
def top1_percent(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose largest logit is their label, in percent, over all processes.

    Args:
        network: Put in inference mode for the time; its modes come back.
        batches: Images (batch, channels, height, width) and labels (batch,), on any device.

    Raises:
        DataError: `batches` is empty.
    """
    device = next(network.parameters()).device
    right = torch.zeros(2, dtype=torch.int64, device=device)  # images right, images seen
    with inference(network):
        for images, labels in batches:
            guesses = network(images.to(device)).argmax(1)
            right += torch.stack(
                [(guesses == labels.to(device)).sum(), right.new_tensor(len(labels))]
            )
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(right)
    if not right[1]:
        raise DataError("there is no test image to measure the accuracy on")
    return 100 * right[0].item() / right[1].item()


def batches_within(limit: int | float | None, count: int) -> int:
    """Return how many of `count` batches a limit leaves, at least 1: a number, a share, or all."""
    if limit is None:
        return count
    return min(limit, count) if isinstance(limit, int) else max(1, int(limit * count))
