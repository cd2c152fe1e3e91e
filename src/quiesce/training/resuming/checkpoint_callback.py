"""When a Trainer saves a checkpoint, and what is in it besides Lightning's own.

A checkpoint is saved at the start of the first batch after an optimizer step, before anything of
this batch has happened. All that the step and the epoch before it lead to is done then: rows are
written, schedules moved, test images measured. So a run that goes on from there repeats nothing
and leaves nothing out. Lightning has counted the coming batch already; that is taken back.
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
from quiesce.parallel.processes import alike, told
from quiesce.training.recording.metrics_table import MetricsTable
from quiesce.training.recording.recording_callback import RecordingCallback
from quiesce.training.recording.summary import versions
from quiesce.training.resuming.random_states import (
    random_states,
    set_random_states,
)

OWN = "quiesce"
"""Key of quiesce's part of a checkpoint."""

VERSION = 1
"""Version of the format of that part."""


class Saving(Checkpoint):
    """Saves a checkpoint every few steps, at the end of each epoch, and at that of the training.

    Args:
        path: Of the newest one.
        every: Optimizer steps between two, besides those of the epochs; None: only those.
        job: Called for what the run has measured so far.
        resumed: The checkpoint that this training goes on from, or None.
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
        self._seen = 0  # optimizer steps, when last looked
        self._batches = 0  # done of the epoch
        self._over = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on in the same files, and at the same images.

        Lightning forgets the loader's state where the loader is asked for its length before, and
        takes an epoch that has not begun for one that has where `max_steps` is given.
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
        """Save what is due after the step before."""
        step, before = trainer.global_step, self._seen
        self._seen, self._batches = step, batch_idx
        if self._resumed is not None:
            everyone = self._resumed[OWN]["random"]
            set_random_states(everyone[trainer.global_rank % len(everyone)])
            self._resumed.clear()  # all of it is in use by now: no second copy of the weights
            self._resumed = None
        elif step != before and (batch_idx == 0 or self._is_due(step)):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last one."""
        self._over = True
        self._save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add quiesce's part, and count the coming batch as not begun."""
        epoch = cast("EpochSampler", _loader(trainer).sampler).epoch
        loss = trainer.callback_metrics.get("epoch_loss")
        checkpoint["epoch"] = epoch
        checkpoint[OWN] = {
            "version": VERSION,
            "over": self._over,
            "batches": self._batches,
            "train_loss": None if loss is None else loss.item(),
            "metrics_bytes": sum(logger.table.size() for logger in _tables(trainer)),
            "random": told(random_states()),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "job": self._job(),
        }
        _count_back(checkpoint["loops"]["fit_loop"], epoch, self._batches)

    def _is_due(self, step: int) -> bool:
        return self._every is not None and step % self._every == 0

    def _save(self, trainer: Trainer) -> None:
        """Save, or stop in all processes where the first can not write.

        Raises:
            DiskFullError: There is no space, for the checkpoint or for rows before it.
        """
        with alike():
            if failure := _failure(trainer):
                raise failure
        with alike():
            try:
                trainer.save_checkpoint(self._path)
            except (QuiesceError, OSError):
                trainer.strategy.barrier()  # where the other processes wait when all is written
                raise


def _count_back(loop: dict[str, Any], epoch: int, batches: int) -> None:
    """Let the state of Lightning's loop be that between two batches, or between two epochs.

    Args:
        loop: Of the fit loop; changed.
        epoch: The one that the coming batch is of, from 0.
        batches: Done of it.
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


def _failure(trainer: Trainer) -> Exception | None:
    """What has kept this process from writing rows."""
    recordings = [each for each in trainer.callbacks if isinstance(each, RecordingCallback)]  # pyright: ignore[reportAttributeAccessIssue]
    writers = [*(logger.table for logger in _tables(trainer)), *recordings]
    return next((each.failure for each in writers if each.failure is not None), None)
