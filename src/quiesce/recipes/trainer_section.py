"""The recipe sections for the Trainer and its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quiesce.recipes.sections import check


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are saved, from which `quiesce train --resume RUN` continues a run."""

    every: int | None = 1000
    """Optimizer steps between two checkpoints, at least 1, besides one after each epoch; null saves
    only after each epoch. The last two are kept."""

    def __post_init__(self) -> None:
        check(self.every is None or self.every >= 1, "every", "at least 1", self.every)


UNFIT_STRATEGIES = ("fsdp", "deepspeed", "spawn", "fork", "notebook")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Options of lightning.Trainer, under its own names."""

    max_epochs: int = 90
    """Epochs of the quantized network, at least 1."""
    max_steps: int = -1
    """Stop after this many optimizer steps; -1 means that only max_epochs counts."""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps, tpu."""
    devices: int | str = "auto"
    """Number of devices on this machine, or auto."""
    num_nodes: int = 1
    """Number of machines, at least 1."""
    strategy: str = "auto"
    """auto, ddp, or another strategy of Lightning. Strategies that split weights among processes
    (fsdp, deepspeed) or lose them after training (spawn, fork, notebook) are not supported."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Precision of the computation; weights, scales and their updates are always 32-bit."""
    accumulate_grad_batches: int = 1
    """Batches to accumulate gradients over for one optimizer step, at least 1."""
    gradient_clip_val: float | None = None
    """Largest norm of the gradient; null does not clip."""
    deterministic: bool = False
    """Use only deterministic algorithms; slower on accelerators."""
    sync_batchnorm: bool = False
    """Compute batch-norm statistics over all devices."""
    log_every_n_steps: int = 10
    """Steps between two lines of metrics.csv, at least 1."""
    check_val_every_n_epoch: int = 1
    """Epochs between two measurements of test accuracy, at least 1."""
    limit_train_batches: int | float | None = None
    """Batches (a whole number) or share (0 to 1) of an epoch to train on; null means all."""
    limit_val_batches: int | float | None = None
    """Batches (a whole number) or share (0 to 1) of the test images to measure; null means all."""
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow", "trackio"], ...] = (
        "csv",
        "tensorboard",
    )
    """Where metrics are written: csv (metrics.csv), tensorboard, or a service: wandb, mlflow,
    trackio, which their environment variables configure (docs/run-folder.md)."""

    def __post_init__(self) -> None:
        counts = ("max_epochs", "num_nodes", "accumulate_grad_batches", "log_every_n_steps")
        for name in (*counts, "check_val_every_n_epoch"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        check(
            self.max_steps == -1 or self.max_steps >= 1,
            "max_steps",
            "-1 or at least 1",
            self.max_steps,
        )
        if unfit := [name for name in UNFIT_STRATEGIES if name in self.strategy]:
            raise ValueError(
                f"`strategy` must keep whole weights in the process that trains them, which "
                f"{unfit[0]} does not, got {self.strategy}; use ddp"
            )
        clip = self.gradient_clip_val
        check(clip is None or clip > 0, "gradient_clip_val", "above 0", clip)
        for name in ("limit_train_batches", "limit_val_batches"):
            check_share_or_count(name, getattr(self, name))


def check_share_or_count(name: str, value: int | float | None) -> None:
    """Check that a limit is a number of batches or a share of them."""
    if isinstance(value, int):
        check(value >= 1, name, "at least 1 batch", value)
    elif value is not None:
        check(0 < value <= 1, name, "a share above 0 and at most 1", value)
