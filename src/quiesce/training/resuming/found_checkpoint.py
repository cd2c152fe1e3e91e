"""Finds the checkpoint of an interrupted run, and continues training from it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from quiesce.errors import CheckpointError, RecipeError
from quiesce.files.atomic import remove_leftovers
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.limits import refuse_links
from quiesce.files.weight_files import named_tensors
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.checkpoint_file import newest_sound
from quiesce.run_folder.folder import CHECKPOINT, FLOAT_CHECKPOINT, RECIPE, SUMMARY, refuse_no_run
from quiesce.training.classifier import NETWORK_PREFIX, Classifier
from quiesce.training.recording.summary import versions
from quiesce.training.resuming.checkpoint_callback import OWN, VERSION
from quiesce.training.resuming.checkpoint_content import control_of, load, one_line, tracker_of

FLOAT: Final = "float"
QUANTIZED: Final = "quantized"
"""The two training stages."""

NEEDED = ("state_dict", "loops", "optimizer_states", "lr_schedulers", "callbacks")
"""Entries that Lightning would silently skip if they were missing."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A readable checkpoint of a run."""

    stage: Literal["float", "quantized"]
    """The training stage of the checkpoint."""
    path: Path
    content: dict[str, Any]
    over: bool
    """Whether the training of this stage is finished."""
    step: int
    """Optimizer steps of this stage."""
    epoch: int
    """Epoch of the next batch, or the last epoch if `over`."""
    train_loss: float | None
    """Average loss over the last complete epoch."""
    busy_s: float
    """Seconds spent in training batches."""
    top1_percent: dict[str, float | None]
    """Accuracies measured so far."""
    metric: dict[str, float | None]
    """Scores by the metric of the recipe so far."""
    seconds: dict[str, float]
    """Wall time of each stage so far."""

    def load(self, network: nn.Module) -> None:
        """Copy the weights into a network of this stage, or raise a CheckpointError."""
        weights = named_tensors(self.content["state_dict"], self.path).items()
        load(network, {name.removeprefix(NETWORK_PREFIX): w for name, w in weights}, self.path)

    @contextmanager
    def resumed_by(self, module: Classifier) -> Iterator[None]:
        """Explain errors that occur while the block resumes training from this checkpoint.

        Args:
            module: The module trained in the block. Once it has made a step, the checkpoint fits.

        Raises:
            CheckpointError: The checkpoint does not fit this training.
        """
        if self.stage == QUANTIZED:
            control_of(self.content, self.path)
        try:
            yield
        except Exception:
            if module.stepped:  # then it is an error of this training
                raise
            with one_line(self.path):
                raise

    def did(self) -> list[dict[str, Any]]:
        """Return what each cure had done, see `quiesce.Control.report`."""
        return control_of(self.content, self.path).get("did", [])

    def tracker(self, network: nn.Module) -> OscillationTracker:
        """Return the tracker for a network that has this checkpoint's weights."""
        state = control_of(self.content, self.path)["tracker"]
        return tracker_of(network, state, NETWORK_PREFIX, self.path)


def recipe_of(folder: Path, flags: Sequence[str] = ()) -> Recipe:
    """Return the recipe of an interrupted run, even if its folder was moved.

    Args:
        flags: See `read_recipe`; any flag except `TRUST` changes the recipe.

    Raises:
        RecipeError: The folder is not a run folder, the run is finished, or its recipe refers to
            untrusted user code.
    """
    refuse_no_run(folder, RECIPE)
    if (folder / SUMMARY).is_file():
        raise RecipeError(f"{folder} is finished: there is nothing to resume")
    try:
        refuse_links(folder)
    except ValueError as error:
        raise RecipeError(f"{folder} cannot be resumed: {error}; copy it without links") from error
    return replace(read_recipe(str(folder / RECIPE), flags), run=str(folder))


def refuse_other_recipe(recipe: Recipe, begun: Recipe) -> None:
    """Raise a RecipeError if a run has another recipe; its folder may have another name."""
    if differing := ", ".join(_differing(replace(recipe, run=begun.run), begun)):
        raise RecipeError(
            f"{recipe.folder} holds a run with another {differing}; choose another folder with "
            f"--run FOLDER, or continue that run: quiesce train --resume {recipe.folder}"
        )


def _differing(one: Any, other: Any, name: str = "") -> Iterator[str]:
    if one == other:
        return
    if type(one) is not type(other) or not is_dataclass(one):
        yield name
        return
    for each in fields(one):
        inside = f"{name}.{each.name}" if name else each.name
        yield from _differing(getattr(one, each.name), getattr(other, each.name), inside)


def find_checkpoint(folder: Path, tell: Callable[[str], object]) -> Found | None:
    """Return the newest readable checkpoint of a run, or None if there is none yet.

    Args:
        tell: Called with messages: which checkpoint is used, and the reason.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged, or of a newer quiesce.
    """
    for stage in (QUANTIZED, FLOAT):
        path = folder / (CHECKPOINT if stage == QUANTIZED else FLOAT_CHECKPOINT)
        remove_leftovers(path.parent)
        if (sound := newest_sound(path.parent, tell)) is not None:
            with one_line(sound[0]):
                found = _found(stage, *sound)
                tell(f"resuming from {found.path}: the {stage} network after {found.step} steps")
                _compare_versions(found.content[OWN], tell)
            return found
    tell(f"{folder} has no checkpoint yet: training from the beginning")
    return None


def _found(stage: Literal["float", "quantized"], path: Path, content: dict[str, Any]) -> Found:
    if OWN not in content:
        raise CheckpointError(f"{path} was not written by a run of quiesce; train again")
    own = content[OWN]
    refuse_newer(str(path), own["version"], VERSION)
    for name in NEEDED:
        if not content[name]:
            raise ValueError(f"its {name} is empty")
    return Found(
        stage=stage,
        path=path,
        content=content,
        over=own["over"],
        step=content["global_step"],
        epoch=content["epoch"],
        train_loss=own["train_loss"],
        busy_s=content["epoch_so_far"][0]["busy_s"],
        top1_percent=own["job"]["top1_percent"],
        metric=own["job"].get("metric", {}),
        seconds=own["job"]["seconds"],
    )


def _compare_versions(own: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Report version differences that may change the bits of the result."""
    now = {"threads": torch.get_num_threads(), **versions()}
    then = {"threads": own["threads"], **own["versions"]}
    for what, value in then.items():
        if now.get(what) != value:
            tell(
                f"{what}: {now.get(what)} now, {value!s:.40} when the checkpoint was written; "
                "the last bits may differ from those of an uninterrupted run"
            )
