"""The state that the stages of a run share, and its loading."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from quiesce.data import Data, build_data
from quiesce.models.build import build_model
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.folder import CHECKPOINT
from quiesce.training.clock import Clock
from quiesce.training.display import Display
from quiesce.training.measuring import Measuring
from quiesce.training.recipe_callback import RecipeCallback
from quiesce.training.recording.recording_callback import RecordingCallback
from quiesce.training.recording.summary import Measured
from quiesce.training.rehearsal import rehearse
from quiesce.training.resuming.checkpoint_callback import CheckpointCallback
from quiesce.training.resuming.found_checkpoint import QUANTIZED, Found
from quiesce.training.resuming.random_states import seed_all
from quiesce.training.trainer import make_trainer


@dataclass(frozen=True, kw_only=True)
class Job:
    """A loaded run; the stages change its network and its measurements."""

    recipe: Recipe
    display: Display
    found: Found | None
    """The checkpoint that the run resumes from, or None."""
    data: Data
    network: nn.Module
    """The network: float until the stage `quantize`, then prepared."""
    trainer: Trainer
    """The Trainer of the quantized stage."""
    tracking: RecipeCallback
    recording: RecordingCallback
    measured: Measured
    """The measurements of the stages so far."""
    clock: Clock

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.recipe.folder

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.trainer.strategy.root_device

    @property
    def measuring(self) -> Measuring:
        """Passes over the images of this run."""
        return Measuring(
            recipe=self.recipe, data=self.data, display=self.display, device=self.device
        )

    @property
    def example(self) -> Tensor:
        """An empty image of shape (1, channels, height, width)."""
        return torch.zeros(1, *self.data.input_shape, device=self.device)

    def found_in(self, stage: str) -> Found | None:
        """Return the checkpoint to resume from, if it was saved in this stage."""
        return self.found if self.found is not None and self.found.stage == stage else None

    def measure(self, state: str) -> None:
        """Measure the network's accuracy in a state, such as float, rounded or trained."""
        self.network.to(self.device)
        self.measured.top1_percent[state] = self.measuring.top1(self.network, state)
        if self.recipe.metric is not None:
            name = self.recipe.metric
            self.measured.metric[state] = self.measuring.metric(name, self.network, state)


def load(recipe: Recipe, display: Display, found: Found | None = None) -> Job:
    """Load data and network, create the Trainer, and refuse combinations that fail.

    Nothing is written to disk. Seeds the global generators of python, numpy and torch.

    Raises:
        QuiesceError: The data, the network, the scheme or the Trainer's options do not work.
    """
    seed_all(recipe.seed)
    data = build_data(recipe.data, seed=recipe.seed)
    network = build_model(recipe.model, num_classes=len(data.classes), input_shape=data.input_shape)
    rehearse(recipe, network, data)
    measured, clock = Measured(), Clock(None if found is None else found.seconds)
    if found is not None:
        measured.top1_percent |= found.top1_percent
        measured.metric |= found.metric
    tracking = RecipeCallback(recipe)
    recording = RecordingCallback(recipe, tracking)
    line = display.training(recipe.name)
    resumed = found if found is not None and found.stage == QUANTIZED else None
    saving = checkpoints(recipe, recipe.folder / CHECKPOINT, measured, clock, resumed)
    trainer = make_trainer(
        recipe.trainer,
        recipe.folder,
        [tracking, recording, line, saving],
        begin=0 if resumed is None else resumed.step,
    )
    return Job(
        recipe=recipe,
        display=display,
        found=found,
        data=data,
        network=network,
        trainer=trainer,
        tracking=tracking,
        recording=recording,
        measured=measured,
        clock=clock,
    )


def checkpoints(
    recipe: Recipe, path: Path, measured: Measured, clock: Clock, resumed: Found | None
) -> CheckpointCallback:
    """Return the callback that saves the checkpoints of a stage."""

    def so_far() -> dict[str, Any]:
        return {
            "top1_percent": dict(measured.top1_percent),
            "metric": dict(measured.metric),
            "seconds": clock.seconds(),
        }

    content = None if resumed is None else resumed.content
    return CheckpointCallback(path, every=recipe.checkpoint.every, job=so_far, resumed=content)
