"""The network of a finished run, as its folder keeps it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.data import Data, build_data
from quiesce.errors import CheckpointError, RecipeError
from quiesce.models import build_model
from quiesce.prepare import prepare
from quiesce.training.folder import NETWORK, RECIPE, SUMMARY
from quiesce.training.reading import read_recipe
from quiesce.training.recipe import Recipe
from quiesce.weight_files import load_weights, read_weights


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What `read_finished` found in a folder."""

    folder: Path

    recipe: Recipe

    data: Data

    network: nn.Module
    """Prepared, with its trained weights and scales, on the CPU."""

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Test images and their labels, as many as the recipe measures on."""
        count = batches_within(self.recipe.trainer.limit_val_batches, len(self.data.test))
        return islice(self.data.test, count)

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json, or nothing where there is none."""
        path = self.folder / SUMMARY
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def read_finished(folder: Path, flags: Sequence[str] = ()) -> FinishedRun:
    """Rebuild the network of a run folder, and its data.

    Args:
        folder: What a run left behind.
        flags: Override its recipe: ["--data.folder", "/elsewhere"].

    Raises:
        RecipeError: The folder is not that of a finished run, or a flag is wrong.
        CheckpointError: The network's file is damaged or does not fit the recipe.
        DataError: The images can not be read.
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
    return FinishedRun(folder=folder, recipe=recipe, data=data, network=network)


def batches_within(limit: int | float | None, count: int) -> int:
    """Return how many of `count` batches a limit leaves, at least 1: a number, a share, or all."""
    if limit is None:
        return count
    return min(limit, count) if isinstance(limit, int) else max(1, int(limit * count))


def _load(network: nn.Module, path: Path) -> None:
    try:
        load_weights(network, read_weights(path), source=path)
    except RuntimeError as error:  # of torch, with a line for each quantizer that does not fit
        first = str(error).partition("\n")[2].partition("\n")[0].strip()
        raise CheckpointError(f"{path}: {first or error}") from error
