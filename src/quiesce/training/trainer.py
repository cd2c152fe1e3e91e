"""Lightning's Trainer as a recipe asks for it, its processes, and one call of its `fit`."""

import dataclasses
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

from quiesce.data import Data
from quiesce.errors import RecipeError
from quiesce.recipes.trainer_section import TrainerConfig
from quiesce.run_folder.checkpoint_file import SoundCheckpoints
from quiesce.run_folder.folder import RECIPE
from quiesce.training.recording.metrics_table import MetricsTable

HARMLESS = (
    r".*does not have many workers.*",  # data.workers is the user's choice
    r".*exists and is not empty.*",  # the run folder holds its recipe before the first log
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*GPU available but not used.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own, on new versions of torch
    r".*Detected call of `lr_scheduler\.step\(\)` before.*",  # where a scaler skips the first step
    r".*Starting from v1\.9\.0, `tensorboardX` has been removed.*",
)
"""What Lightning warns of and is meant to be as it is here."""


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
        config: Its options.
        folder: The run folder, for logs and checkpoints.
        callbacks: In the order of their calls; one of them saves checkpoints.
        epochs: For a stage without logs: its epochs, instead of the config's `max_epochs` and
            `max_steps`.
        begin: Optimizer steps that a resumed training has behind it.

    Raises:
        RecipeError: Lightning can not do that here: no such device, strategy or precision.
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
                default_root_dir=folder / RECIPE,  # no folder: see _environment
                plugins=[SoundCheckpoints(), *_environment()],
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,  # quiesce.data makes the shards
            )
    except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
        raise RecipeError(f"trainer: {str(error).strip()}") from error


def gather_processes(trainer: Trainer) -> None:
    """Start the processes that train together, and let them find each other.

    `fit` would do so too; but data is dealt out to processes before, and not only there.
    """
    if trainer.strategy.launcher is None:
        return
    with _calm():
        trainer.strategy.launcher.launch(lambda **_: None, trainer=trainer)
        trainer.strategy.setup_environment()


def fit(
    trainer: Trainer, module: LightningModule, data: Data, checkpoint: Path | None = None
) -> None:
    """Train `module` on `data`, from the beginning or from a checkpoint.

    Raises:
        KeyboardInterrupt: Somebody pressed Ctrl-C; logs and checkpoints are closed.
    """
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with _calm():
            trainer.fit(module, data.train, data.test, ckpt_path=checkpoint)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C, and lets nobody press it again
        signal.signal(signal.SIGINT, on_ctrl_c)
        raise KeyboardInterrupt from stop


def _environment() -> list[SLURMEnvironment]:
    """Slurm's, where Lightning would take it, without checkpoints of Lightning's own.

    It would write them into its root folder when Slurm announces an end, and go on from what it
    finds there, whoever wrote it, unasked.
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
            purge_step=begin or None,  # TensorBoard hides what was drawn after the checkpoint
        ),
    }
    return [makers[kind]() for kind in kinds]


@contextmanager
def _calm() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        yield
