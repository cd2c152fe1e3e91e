"""Saves checkpoints of a Trainer, with additional entries for quiesce.

A checkpoint is saved at the start of the first batch after an optimizer step, before the batch is
used. By then everything that follows from the step, or from the end of an epoch, is done: rows are
written, schedules are updated, test images are measured. So a resumed run repeats nothing and skips
nothing. Lightning has already counted the new batch; the checkpoint corrects this.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from quiesce.data.loaders import ResumableLoader
from quiesce.data.sampling import EpochSampler
from quiesce.errors import QuiesceError
from quiesce.parallel.processes import gathered_objects, raised_together
from quiesce.training.recording.metrics_table import MetricsTable
from quiesce.training.recording.summary import versions
from quiesce.training.resuming.random_states import random_states, set_random_states

OWN = "quiesce"
"""Key of the entries that quiesce adds."""

VERSION = 1
"""Format version of those entries."""


class CheckpointCallback(Checkpoint):
    """Saves a checkpoint every few steps, after each epoch, and at the end of training.

    Args:
        every: Optimizer steps between two checkpoints; None saves only after epochs.
        job: Returns the measurements of the run so far.
        resumed: Content of the checkpoint that this training resumes from, or None.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int | None,
        job: Callable[[], dict[str, Any]],
        resumed: dict[str, Any] | None = None,
    ) -> None:
        self._path = path
        self._every = every
        self._job = job
        self._resumed = resumed
        self._seen = 0  # optimizer steps at the previous batch
        self._batches = 0  # finished in this epoch
        self._over = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue at the same images and in the same metrics file.

        Lightning loses the loader's state if the loader's length was read before. With `max_steps`
        it also treats an epoch that has not started as one that has.
        """
        if self._resumed is None:
            return
        own = self._resumed[OWN]
        state = {"epoch": self._resumed["epoch"], "batches": own["batches"]}
        _loader(trainer).load_state_dict(state)
        if trainer.is_global_zero:
            for logger in _tables(trainer):
                logger.table.go_on(own["metrics_bytes"])
        if own["batches"] == 0:
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint if one is due after the previous step."""
        step, before = trainer.global_step, self._seen
        self._seen, self._batches = step, batch_idx
        if self._resumed is not None:
            everyone = self._resumed[OWN]["random"]
            set_random_states(everyone[trainer.global_rank % len(everyone)])
            self._resumed.clear()  # frees the second copy of the weights
            self._resumed = None
        elif step != before:
            due = self._every is not None and step % self._every == 0
            if due or batch_idx == 0:
                self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last checkpoint."""
        self._over = True
        self._save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entries of quiesce, and count the new batch as not started."""
        epoch = cast("EpochSampler", _loader(trainer).sampler).epoch
        loss = trainer.callback_metrics.get("epoch_loss")
        checkpoint["epoch"] = epoch
        checkpoint[OWN] = {
            "version": VERSION,
            "over": self._over,
            "batches": self._batches,
            "train_loss": None if loss is None else loss.item(),
            "metrics_bytes": sum(logger.table.size() for logger in _tables(trainer)),
            "random": gathered_objects(random_states()),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "job": self._job(),
        }
        _count_back(checkpoint["loops"]["fit_loop"], epoch, self._batches)

    def _save(self, trainer: Trainer) -> None:
        """Save a checkpoint; an error of the writing process is raised in all processes."""
        with raised_together():
            try:
                trainer.save_checkpoint(self._path)
            except (QuiesceError, OSError):
                trainer.strategy.barrier()  # the other processes wait here until all is written
                raise


def _count_back(loop: dict[str, Any], epoch: int, batches: int) -> None:
    """Set the state of Lightning's loop to the one between two batches, or between two epochs.

    Args:
        loop: State of the fit loop; changed in place.
        epoch: Epoch of the next batch, from 0.
        batches: Finished batches of this epoch.
    """
    counted = [loop["epoch_loop.batch_progress"]]
    if batches == 0:
        counted.append(loop["epoch_progress"])
    for progress in counted:
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(("ready", "started", "processed"), counts["completed"]))
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    loop["state_dict"]["combined_loader"] = [{"epoch": epoch, "batches": batches}]


def _loader(trainer: Trainer) -> ResumableLoader:
    return cast("ResumableLoader", trainer.train_dataloader)


def _tables(trainer: Trainer) -> list[MetricsTable]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsTable)]
