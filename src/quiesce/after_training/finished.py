"""Loads a finished run from its folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.after_training.restored import untrained
from quiesce.data import Data
from quiesce.files.weight_files import read_weights
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.contents import Summary
from quiesce.run_folder.folder import NETWORK, RECIPE, SUMMARY, refuse_no_run
from quiesce.run_folder.reading import maybe_read
from quiesce.training.display import Display
from quiesce.training.measuring import Measuring
from quiesce.training.resuming.checkpoint_content import load
from quiesce.training.scores import Batch


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run: its recipe, data and network."""

    folder: Path
    recipe: Recipe
    data: Data
    network: nn.Module
    """The prepared network with its trained weights and scales, on the CPU."""

    def measuring(self, display: Display | None = None) -> Measuring:
        """Return passes over the images of the run."""
        return Measuring(recipe=self.recipe, data=self.data, display=display or Display())

    def test_batches(self) -> Iterator[Batch]:
        """Return test images and labels, as many as the recipe uses."""
        return self.measuring().test("")

    def test_images(self, count: int) -> Tensor:
        """Return the first `count` test images, or all if there are fewer: (images, ...)."""
        parts, found = [], 0
        for images, _ in self.test_batches():
            parts.append(images[: count - found])
            found += len(parts[-1])
            if found == count:
                break
        return torch.cat(parts)

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json, or an empty dict if there is none."""
        summary = maybe_read(self.folder / SUMMARY, Summary)
        return summary.tree() if summary else {}


def read_finished(folder: Path, flags: Sequence[str] = ()) -> FinishedRun:
    """Rebuild the network of a run folder, and its data.

    Args:
        flags: Flags that override its recipe: ["--data.folder", "/elsewhere"].

    Raises:
        RecipeError: The folder does not hold a finished run, or a flag is wrong.
        CheckpointError: The network's file is damaged or does not fit the recipe.
        DataError: The images cannot be read.
    """
    refuse_no_run(folder, RECIPE, NETWORK)
    recipe = read_recipe(str(folder / RECIPE), flags)
    data, network = untrained(recipe)
    load(network, read_weights(folder / NETWORK), folder / NETWORK)
    return FinishedRun(folder=folder, recipe=recipe, data=data, network=network)
