"""Creates the Lightning Trainer of a recipe, starts its processes, and calls `fit`."""

import dataclasses
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from quiesce.data import Data
from quiesce.errors import RecipeError
from quiesce.recipes.trainer_section import TrainerConfig
from quiesce.run_folder.checkpoint_file import SoundCheckpoints
from quiesce.run_folder.folder import RECIPE
from quiesce.training.recording.metrics_table import MetricsTable
from quiesce.training.recording.service_loggers import ServiceLogger

HARMLESS = (
    r".*does not have many workers.*",  # data.workers is a choice of the user
    r".*exists and is not empty.*",  # the run folder holds recipe.yaml already
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*GPU available but not used.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # from Lightning with new versions of torch
    r".*Detected call of `lr_scheduler\.step\(\)` before.*",  # a GradScaler skipped it
    r".*Starting from v1\.9\.0, `tensorboardX` has been removed.*",
)
"""Lightning warnings about intended behaviour."""

LOGGERS = ("lightning.pytorch", "lightning.fabric")
"""Loggers of Lightning, whose tips and hints on devices are not shown."""


def is_first_process() -> bool:
    """Return whether this process writes files: it is the only one, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def make_trainer(
    config: TrainerConfig,
    folder: Path,
    callbacks: Sequence[Callback],
    *,
    epochs: int | None = None,
    begin: int = 0,
) -> Trainer:
    """Return the Trainer that `config` describes; nothing is written yet.

    Args:
        callbacks: Callbacks in the order of their calls; one of them saves checkpoints.
        epochs: Trains this many epochs without logs, instead of `max_epochs` and `max_steps`.
        begin: Optimizer steps before a resumed training.

    Raises:
        RecipeError: The device, strategy or precision is not available here.
        MissingExtraError: The package of a logger is not installed.
    """
    options: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config)
    }
    loggers = _loggers(options.pop("loggers"), folder, begin)
    if epochs is not None:
        options |= {"max_epochs": epochs, "max_steps": -1}
        loggers = []
    try:
        with _calm():
            return Trainer(
                **options,
                callbacks=list(callbacks),
                logger=loggers,
                default_root_dir=folder / RECIPE,  # not a folder: see _environment
                plugins=[SoundCheckpoints(), *_environment()],
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,  # the samplers of quiesce.data do it
            )
    except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
        raise RecipeError(f"trainer: {str(error).strip()}") from error


def gather_processes(trainer: Trainer) -> None:
    """Start the processes of a distributed run and connect them.

    `fit` would do this too, but the data is divided among the processes earlier.
    """
    if trainer.strategy.launcher is None:
        return
    with _calm():
        trainer.strategy.launcher.launch(lambda **_: None, trainer=trainer)
        trainer.strategy.setup_environment()


def fit(
    trainer: Trainer, module: LightningModule, data: Data, checkpoint: Path | None = None
) -> None:
    """Train `module` from the beginning or from a checkpoint; Ctrl-C is a KeyboardInterrupt."""
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with _calm():
            trainer.fit(module, data.train, data.test, ckpt_path=checkpoint)
    except SystemExit as stop:  # Lightning turns Ctrl-C into SystemExit and ignores further ones
        signal.signal(signal.SIGINT, on_ctrl_c)
        raise KeyboardInterrupt from stop


def _environment() -> list[SLURMEnvironment]:
    """Return Slurm's environment without automatic checkpoints, if Lightning would use it.

    Lightning would write a checkpoint to its root folder when Slurm stops the job, and would load
    any checkpoint that it finds there.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def _loggers(kinds: Sequence[str], folder: Path, begin: int) -> list[Logger]:
    makers = {
        "csv": lambda: MetricsTable(folder),
        "tensorboard": lambda: TensorBoardLogger(
            folder,
            name="",
            version="tensorboard",
            default_hp_metric=False,
            purge_step=begin or None,  # hides points from after the checkpoint
        ),
    }
    return [makers[kind]() if kind in makers else ServiceLogger(kind, folder) for kind in kinds]


@contextmanager
def _calm() -> Iterator[None]:
    """Silence Lightning's tips and its harmless warnings in the block."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in loggers.items():
                logger.setLevel(level)
