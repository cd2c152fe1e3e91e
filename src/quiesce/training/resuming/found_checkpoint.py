"""What a run that was cut off has left, and how a later process goes on from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from lightning import Trainer
from torch import nn
from torch.optim import Optimizer

from quiesce.errors import CheckpointError, RecipeError
from quiesce.files.atomic import remove_leftovers
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.limits import refuse_links
from quiesce.files.untrusted.typed_values import count
from quiesce.files.weight_files import named_tensors
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.checkpoint_file import newest_sound
from quiesce.run_folder.folder import CHECKPOINT, FLOAT_CHECKPOINT, RECIPE, SUMMARY
from quiesce.training.classifier import NETWORK_PREFIX, Classifier
from quiesce.training.recording.summary import versions
from quiesce.training.resuming.checkpoint_callback import OWN, VERSION
from quiesce.training.resuming.checkpoint_checks import (
    gone_on_from,
    refuse_odd,
    refuse_unfit,
)
from quiesce.training.resuming.checkpoint_content import control_of, load, tracker_of, understood

FLOAT: Final = "float"
QUANTIZED: Final = "quantized"
"""The stages that checkpoints are of."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sound checkpoint of a run."""

    stage: Literal["float", "quantized"]

    path: Path

    content: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether the training of its stage is over."""
        return self.content[OWN]["over"]

    @property
    def step(self) -> int:
        """Optimizer steps of its stage."""
        return self.content["global_step"]

    @property
    def epoch(self) -> int:
        """The epoch whose batches come next, or at the end came last."""
        return self.content["epoch"]

    @property
    def job(self) -> dict[str, Any]:
        """What the run had measured."""
        return self.content[OWN]["job"]

    @property
    def train_loss(self) -> float | None:
        """Averaged over the last epoch that was over."""
        return self.content[OWN]["train_loss"]

    @property
    def busy_s(self) -> float:
        """Seconds in training batches."""
        return self.content["epoch_so_far"][0]["busy_s"]

    def load(self, network: nn.Module) -> None:
        """Copy the weights into a network of this stage.

        Raises:
            CheckpointError: They do not fit.
        """
        weights = named_tensors(self.content["state_dict"], self.path).items()
        load(network, {name.removeprefix(NETWORK_PREFIX): w for name, w in weights}, self.path)

    @contextmanager
    def goes_on(self, module: Classifier, trainer: Trainer, optimizer: Optimizer) -> Iterator[None]:
        """Let a training go on from here in the block.

        Args:
            module: With a network of this stage.
            trainer: That will train it.
            optimizer: Over its parameters, like the one that will step them; changed.

        Raises:
            CheckpointError: It does not fit this training.
        """
        if self.stage == FLOAT:
            self.load(module.network)
        else:
            control_of(self.content, self.path)
        with understood(self.path):
            refuse_unfit(self.content, trainer, optimizer)
        with gone_on_from(self.path, module):
            yield

    def tracker(self, network: nn.Module) -> OscillationTracker:
        """Return the tracker of a network that has this checkpoint's weights."""
        state = control_of(self.content, self.path)["tracker"]
        return tracker_of(network, state, NETWORK_PREFIX, self.path)


def recipe_of(folder: Path) -> Recipe:
    """Return the recipe of a run that was cut off, wherever its folder is now.

    Raises:
        RecipeError: It is no run folder, or that of a finished run.
    """
    if not (folder / RECIPE).is_file():
        what = f"it has no {RECIPE}" if folder.exists() else "there is no such folder"
        raise RecipeError(f"{folder} is no run folder: {what}; `quiesce train RECIPE` makes one")
    if (folder / SUMMARY).is_file():
        raise RecipeError(f"{folder} is finished: there is nothing to resume")
    try:
        refuse_links(folder)
    except ValueError as error:
        raise RecipeError(f"{folder} can not be resumed: {error}; copy it without links") from error
    return replace(read_recipe(str(folder / RECIPE)), run=str(folder))


def refuse_other_recipe(recipe: Recipe, begun: Recipe) -> None:
    """Refuse to go on with a run by another recipe than its own, wherever its folder is named.

    Raises:
        RecipeError: Some fields differ.
    """
    if differing := ", ".join(_differing(replace(recipe, run=begun.run), begun)):
        raise RecipeError(
            f"{recipe.folder} holds a run with another {differing}; name another: --run FOLDER, or "
            f"go on as it began: quiesce train --resume {recipe.folder}"
        )


def _differing(one: Any, other: Any, name: str = "") -> Iterator[str]:
    if one == other:
        return
    if type(one) is not type(other) or not is_dataclass(one):
        yield name
        return
    for field in fields(one):
        inside = f"{name}.{field.name}" if name else field.name
        yield from _differing(getattr(one, field.name), getattr(other, field.name), inside)


def find_checkpoint(folder: Path, tell: Callable[[str], object]) -> Found | None:
    """Return the newest sound checkpoint of a run, or None where it has none yet.

    Args:
        folder: Of the run.
        tell: Hears which it is, and why.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged, or of a newer quiesce.
    """
    for stage in (QUANTIZED, FLOAT):
        path = folder / (CHECKPOINT if stage == QUANTIZED else FLOAT_CHECKPOINT)
        remove_leftovers(path.parent)
        if (sound := newest_sound(path.parent, tell)) is None:
            continue
        found = Found(stage=stage, path=sound[0], content=sound[1])
        if OWN not in found.content:
            raise CheckpointError(f"{found.path} is of no run that can be resumed; train again")
        with understood(found.path):
            refuse_newer(str(found.path), count(found.content[OWN]["version"]), VERSION)
            refuse_odd(found.content)
            tell(f"going on from {found.path}: the {stage} network after {found.step} steps")
            _compare(found.content[OWN], tell)
        return found
    tell(f"{folder} has no checkpoint yet: training from the beginning")
    return None


def _compare(own: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Say what may let this process come to other bits than the one before."""
    now = {"threads": torch.get_num_threads(), **versions()}
    then = {"threads": own["threads"], **own["versions"]}
    for what, number in then.items():
        if now.get(what) != number:
            tell(
                f"{what}: {now.get(what)} now, {number} when the checkpoint was written; the last "
                "bits may differ from those of a run without a break"
            )
