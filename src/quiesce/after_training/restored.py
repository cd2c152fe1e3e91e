"""Restores network and tracker from the last checkpoint of a finished or interrupted run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.data import Data, build_data
from quiesce.diagnosis import has_statistics, population_statistics
from quiesce.errors import CheckpointError, RecipeError
from quiesce.files.weight_files import named_tensors, unpickled
from quiesce.models.build import build_model
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.prepare import prepare, quantized_weights
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.contents import Summary
from quiesce.run_folder.folder import CHECKPOINT, RECIPE, SUMMARY, refuse_no_run
from quiesce.run_folder.reading import maybe_read
from quiesce.training.display import Display
from quiesce.training.measuring import Measuring
from quiesce.training.resuming.checkpoint_content import control_of, load, one_line, tracker_of


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Network, tracker and data from a checkpoint and its recipe."""

    recipe: Recipe
    data: Data
    network: nn.Module
    """The prepared network, with the running batch-norm statistics of the last step."""
    tracker: OscillationTracker
    """The tracker after the last step; it can be read and stepped."""
    prefix: str
    """Prefix of the tracker's names before the names of the network's layers."""
    finished: bool
    """Whether the run is finished; True for a checkpoint outside a run folder."""

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def measuring(self, display: Display) -> Measuring:
        """Return passes over the images, in the order of the last epoch."""
        return Measuring(recipe=self.recipe, data=self.data, display=display, device=self.device)

    @contextmanager
    def reestimated(self, display: Display) -> Iterator[dict[str, Tensor]]:
        """Use re-estimated batch-norm statistics in the block.

        Yields:
            Name of the batch norm to KL(re-estimated || running) of its channels, in nats. Empty if
            there is no batch norm, or if the recipe does not re-estimate.
        """
        count = self.recipe.batchnorm.batches
        if count is None or not has_statistics(self.network):
            yield {}
            return
        batches = self.measuring(display).training("batch norm", count)
        with population_statistics(self.network, batches, count) as kl:
            yield kl


def restore(run: Path, recipe: str | None = None, flags: Sequence[str] = ()) -> Restored:
    """Rebuild network and tracker from the last checkpoint of a run.

    Args:
        run: A run folder, or a checkpoint of a Trainer with a `QuiesceCallback`.
        recipe: Name or path of the recipe. Required for a checkpoint; None uses the recipe of the
            run folder.
        flags: Flags that override the recipe: ["--data.folder", "/elsewhere"].

    Raises:
        RecipeError: `run` is neither, has no checkpoint yet, or has a newer format; or the recipe
            or a flag is wrong.
        CheckpointError: The checkpoint is damaged or does not fit the recipe.
        DataError: The images cannot be read.
    """
    checkpoint, recipe, finished = _locate(run, recipe)
    known = read_recipe(recipe, flags)
    content = _read(checkpoint)
    control = control_of(content, checkpoint)
    data, network = untrained(known)
    with one_line(checkpoint):
        prefix = _prefix(control["tracker"]["names"], network, checkpoint)
    weights = named_tensors(content["state_dict"], checkpoint)
    load(network, {name.removeprefix(prefix): w for name, w in weights.items()}, checkpoint)
    network.to(_device(known))
    tracker = tracker_of(network, control["tracker"], prefix, checkpoint)
    # the run itself re-estimates on the batches of this epoch
    Measuring(recipe=known, data=data).show_epoch(content.get("epoch", 0))
    return Restored(
        recipe=known,
        data=data,
        network=network,
        tracker=tracker,
        prefix=prefix,
        finished=finished,
    )


def untrained(recipe: Recipe) -> tuple[Data, nn.Module]:
    """Return the data of a recipe, and its prepared network with random weights."""
    data = build_data(recipe.data, seed=recipe.seed)
    shape = data.input_shape
    start = replace(recipe.model, weights="random")
    network = build_model(start, num_classes=len(data.classes), input_shape=shape)
    prepare(network, recipe.scheme.scheme(), torch.zeros(1, *shape))
    return data, network


def _locate(run: Path, recipe: str | None) -> tuple[Path, str, bool]:
    """Return the checkpoint, the recipe, and whether the run is finished."""
    if run.is_file():
        if recipe is None:
            raise RecipeError(f"{run}: a checkpoint needs its recipe: --recipe NAME or FILE")
        return run, recipe, True
    refuse_no_run(run, RECIPE)
    checkpoint = run / CHECKPOINT
    if not checkpoint.is_file():
        raise RecipeError(
            f"{run} has no {CHECKPOINT}: the run was interrupted before its first checkpoint; "
            "train again"
        )
    finished = maybe_read(run / SUMMARY, Summary) is not None
    return checkpoint, recipe or str(run / RECIPE), finished


def _read(path: Path) -> dict[str, Any]:
    content = unpickled(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is not a checkpoint of a Trainer: it has no state_dict")
    with one_line(path):
        int(content.get("epoch", 0))
    return content


def _prefix(names: Sequence[str], network: nn.Module, path: Path) -> str:
    """Return the prefix of a user's module before the names of the network's layers."""
    own = [weight.name for weight in quantized_weights(network)]
    prefix = names[0].removesuffix(own[0]) if names else ""
    if [prefix + name for name in own] != list(names):
        odd = sorted({prefix + name for name in own} ^ set(names)) or ["their order"]
        raise CheckpointError(
            f"{path} does not fit the recipe: the quantized layers differ in {odd[0]}"
        )
    return prefix


def _device(recipe: Recipe) -> torch.device:
    """Return the accelerator of the recipe if it is available, else the CPU."""
    there = torch.cuda.is_available() and recipe.trainer.accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if there else "cpu")
