"""The stages of a run, in order: load, float stage, quantize, train, re-estimate, write."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

import quiesce as qs
from quiesce.data import Data, build_data
from quiesce.data.sampling import EpochSampler
from quiesce.diagnosis import diagnose_batchnorm, has_statistics
from quiesce.errors import CheckpointError, DataError, RecipeError
from quiesce.integrations.lightning.quiesce_callback import WatchCallback
from quiesce.models.build import build_model
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.parallel.processes import alike, told
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.folder import (
    CHECKPOINT,
    DIAGNOSIS,
    FLOAT_CHECKPOINT,
    FLOAT_NETWORK,
    NETWORK,
    SUMMARY,
    write_json,
)
from quiesce.run_folder.network_file import save_network
from quiesce.training.classifier import NETWORK_PREFIX, Classifier
from quiesce.training.clock import Clock
from quiesce.training.display import Display
from quiesce.training.optimizers import JoinedOptimizer, joined_optimizer, make_optimizer
from quiesce.training.recipe_callback import RecipeCallback
from quiesce.training.recording.diagnosis_file import (
    BATCHES,
    REESTIMATED,
    RUNNING,
)
from quiesce.training.recording.recording_callback import RecordingCallback
from quiesce.training.recording.summary import Measured, summarize
from quiesce.training.rehearsal import rehearse
from quiesce.training.resuming.checkpoint_callback import Saving
from quiesce.training.resuming.found_checkpoint import FLOAT, QUANTIZED, Found
from quiesce.training.resuming.random_states import seed_all
from quiesce.training.scores import Batch, batches_within, top1_percent
from quiesce.training.trainer import fit, gather_processes, make_trainer


def is_first_process() -> bool:
    """Whether this process writes the files: the only one, or the first of a distributed run."""
    return getattr(rank_zero_only, "rank", 0) == 0


class Job:
    """The stages of a run and what they hand on: data, network, measurements.

    Args:
        recipe: Everything that decides the run.
        display: Where progress is drawn.
        found: What the run goes on from; None: from the beginning.
    """

    data: Data
    network: nn.Module
    trainer: Trainer
    callback: RecipeCallback
    recording: RecordingCallback

    tracker: OscillationTracker

    def __init__(self, recipe: Recipe, display: Display, found: Found | None = None) -> None:
        self.recipe = recipe
        self.display = display
        self.found_float = found if found is not None and found.stage == FLOAT else None
        self.found = found if found is not None and found.stage == QUANTIZED else None
        self.measured = Measured()
        self._clock = Clock()
        if found is not None:
            self.measured.top1_percent |= found.job["top1_percent"]
            self._clock = Clock(found.job["seconds"])

    def load(self) -> None:
        """Read data and network, and refuse here what can not work."""
        recipe = self.recipe
        seed_all(recipe.seed)
        self.data = build_data(recipe.data, seed=recipe.seed)
        self.network = build_model(
            recipe.model,
            num_classes=len(self.data.classes),
            input_shape=self.data.input_shape,
        )
        rehearse(recipe, self.network, self.data)
        self.callback = RecipeCallback(recipe)
        self.recording = RecordingCallback(recipe, self.callback)
        saving = self._saving(recipe.folder / CHECKPOINT, self.found)
        line = self.display.training(recipe.name)
        self.trainer = make_trainer(
            recipe.trainer,
            recipe.folder,
            [self.callback, self.recording, line, saving],
            begin=0 if self.found is None else self.found.step,
        )

    def run(self, folder: Path) -> dict[str, Any]:
        """Do all stages, but for what is done already; return the content of summary.json."""
        gather_processes(self.trainer)
        self._refuse_other_checkpoints()
        self._refuse_empty_share()
        if self.found is None:
            self.train_float(folder)
        self.quantize()
        self.train(folder)
        self.reestimate()
        return self.write(folder)

    def train_float(self, folder: Path) -> None:
        """Train the float network first, where the recipe says so, and measure it."""
        stage, found = self.recipe.float_stage, self.found_float
        if stage.epochs is not None:
            line, watch = self.display.training("float network"), WatchCallback(NETWORK_PREFIX)
            saving = self._saving(folder / FLOAT_CHECKPOINT, found)
            callbacks = [watch, line, saving]
            trainer = make_trainer(self.recipe.trainer, folder, callbacks, epochs=stage.epochs)
            with self._clock.timed("float_stage"):
                if found is not None and found.over:
                    found.load(self.network)
                else:
                    self._fit(
                        trainer,
                        lambda net: make_optimizer(net.parameters(), stage.optimizer),
                        found,
                    )
            with alike():
                if trainer.is_global_zero:
                    save_network(self.network, folder / FLOAT_NETWORK)
        self._measure("float")

    def quantize(self) -> None:
        """Give the network its quantizers and their first scales."""
        example = torch.zeros(1, *self.data.input_shape, device=self._device)
        qs.prepare(self.network, self.recipe.scheme.scheme(), example)
        self._show_epoch((self.recipe.float_stage.epochs or 1) - 1)
        if self.found is None:
            count = self.recipe.calibration.batches
            qs.calibrate(self.network, self._training_images("calibration", count), count)
        else:
            self.found.load(self.network)
        qs.compile(self.network, self.recipe.compile)
        if self.found is None:
            self._measure("rounded")

    def train(self, folder: Path) -> None:
        """Train the quantized network, and read what the tracker saw."""
        if self.recipe.recording.batchnorm_every is not None:
            count = self.recipe.recording.batchnorm_batches
            self.recording.batches = list(self._training_batches("recording", count))
        seed_all(self.recipe.seed)
        measured, found = self.measured, self.found
        with self._clock.timed("training"):
            if found is not None and found.over:
                self.tracker, busy_s = found.tracker(self.network), found.busy_s
                measured.train_loss, measured.steps = found.train_loss, found.step
                self._show_epoch(found.epoch)
            else:
                busy_s = self._fit(self.trainer, self._weights_and_scales, found).busy_s
                self.tracker = self.callback.tracker
                measured.train_loss = self.trainer.callback_metrics["epoch_loss"].item()
                measured.steps = self.trainer.global_step
        measured.seconds_per_step = busy_s / max(1, measured.steps)
        measured.layers = [
            replace(layer, name=layer.name.removeprefix(NETWORK_PREFIX))
            for layer in self.tracker.report()
        ]
        measured.diagnosis.see_layers(self.tracker, NETWORK_PREFIX)
        self._measure("trained")

    def reestimate(self) -> None:
        """Measure the batch-norm statistics again, and the network before and after."""
        measured, count = self.measured, self.recipe.batchnorm.batches
        self._see_score(RUNNING, count or BATCHES, "trained")
        if count is None or not has_statistics(self.network):
            return
        images = self._training_images("batch norm", count)
        measured.kl = qs.reestimate_batchnorm(self.network, images, count)
        example = torch.zeros(1, *self.data.input_shape, device=self._device)
        measured.diagnosis.norms = diagnose_batchnorm(self.network, measured.kl, example)
        self._measure("reestimated")
        self._see_score(REESTIMATED, count, "reestimated")

    def write(self, folder: Path) -> dict[str, Any]:
        """Save the network and the summary."""
        self.measured.seconds = self._clock.seconds()
        summary = summarize(self.recipe, self.network, self.measured)
        if is_first_process():
            save_network(self.network, folder / NETWORK)
            write_json(folder / DIAGNOSIS, self.measured.diagnosis.tree())
            shutil.rmtree((folder / FLOAT_CHECKPOINT).parent, ignore_errors=True)
            write_json(folder / SUMMARY, summary)
        return summary

    def _refuse_other_checkpoints(self) -> None:
        """All processes go on from the same checkpoint: each has looked for it by itself."""
        found = self.found or self.found_float
        mine = None if found is None else (found.stage, found.step, found.path.name)
        everyone = told(mine)
        for rank, other in enumerate(everyone):
            if other != everyone[0]:
                raise CheckpointError(
                    f"rank {rank} goes on from {_begin(other)} and rank 0 from "
                    f"{_begin(everyone[0])}: they see other files in {self.recipe.folder}; name a "
                    "folder that is the same on all machines, and start again"
                )

    def _refuse_empty_share(self) -> None:
        """Every process has test images to measure: where one had none, the others would wait."""
        limit, fewest = self.recipe.trainer.limit_val_batches, min(told(len(self.data.test)))
        if fewest == 0:
            raise DataError("there are fewer test images than processes; train with fewer devices")
        if isinstance(limit, float) and int(limit * fewest) == 0:
            raise RecipeError(
                f"trainer.limit_val_batches: {limit:.3g} of {fewest} batches is none; it must be "
                f"at least {1 / fewest:.3g}"
            )

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device

    def _fit(self, trainer: Trainer, make_optimizer: Any, found: Found | None) -> Classifier:
        module = Classifier(self.network, make_optimizer, self.recipe.lr_schedule)
        if found is None:
            fit(trainer, module, self.data)
        else:
            with found.goes_on(module, trainer, make_optimizer(self.network)):
                fit(trainer, module, self.data, found.path)
        return module

    def _saving(self, path: Path, found: Found | None) -> Saving:
        every, resumed = self.recipe.checkpoint.every, None if found is None else found.content
        return Saving(path, every=every, job=self._state, resumed=resumed)

    def _state(self) -> dict[str, Any]:
        """What a run that goes on from a checkpoint would not measure again."""
        return {
            "top1_percent": dict(self.measured.top1_percent),
            "seconds": self._clock.seconds(),
        }

    def _show_epoch(self, epoch: int) -> None:
        """Let passes over the training images that are not training see those of an epoch."""
        cast("EpochSampler", self.data.train.sampler).set_epoch(epoch)

    def _weights_and_scales(self, network: nn.Module) -> JoinedOptimizer:
        recipe = self.recipe
        return joined_optimizer(network, recipe.weights_optimizer, recipe.scales_optimizer)

    def _training_images(self, title: str, count: int) -> Iterator[Tensor]:
        for images, _ in self._training_batches(title, count):
            yield images.to(self._device)

    def _training_batches(self, title: str, count: int) -> Iterator[Batch]:
        count = min(count, len(self.data.train))  # one more would let the epoch be over
        return self.display.track(islice(self.data.train, count), title, count)

    def _measure(self, what: str) -> None:
        self.network.to(self._device)
        count = batches_within(self.recipe.trainer.limit_val_batches, len(self.data.test))
        batches = self.display.track(islice(self.data.test, count), f"top-1, {what}", count)
        self.measured.top1_percent[what] = top1_percent(self.network, batches)

    def _see_score(self, kind: str, count: int, measured: str) -> None:
        batches = self._training_batches(f"loss, {kind}", count)
        top1 = self.measured.top1_percent[measured]
        self.measured.diagnosis.see_score(kind, self.network, batches, top1)


def _begin(mark: tuple[str, int, str] | None) -> str:
    if mark is None:
        return "the beginning"
    stage, step, name = mark
    return f"step {step} of the {stage} network ({name})"
