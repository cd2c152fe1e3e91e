"""The sections of a recipe that say how training is carried out: trainer and checkpoints.

What is learned, and by which rules, is in `quiesce.recipes.sections`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quiesce.recipes.sections import check


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept so that a run that was cut off goes on: `quiesce train --resume RUN`."""

    every: int | None = 1000
    """Optimizer steps between two checkpoints, besides the one after each epoch, at least 1; null:
    only after each epoch. The last two are kept."""

    def __post_init__(self) -> None:
        check(self.every is None or self.every >= 1, "every", "at least 1", self.every)


UNFIT_STRATEGIES = ("fsdp", "deepspeed", "spawn", "fork", "notebook")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Options of lightning.Trainer, under its own names."""

    max_epochs: int = 90
    """Passes over the training images, at least 1."""

    max_steps: int = -1
    """Stop after so many optimizer steps; -1 means max_epochs decides."""

    accelerator: str = "auto"
    """auto, cpu, gpu, mps, tpu."""

    devices: int | str = "auto"
    """How many devices on this machine, or auto."""

    num_nodes: int = 1
    """Machines, at least 1."""

    strategy: str = "auto"
    """auto, ddp, or another that Lightning knows by name; not one that splits weights among
    processes (fsdp, deepspeed) or forgets them after training (spawn, fork, notebook)."""

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Of the arithmetic; weights, scales and their steps are in 32 bits always."""

    accumulate_grad_batches: int = 1
    """Batches whose gradients are added up for one optimizer step, at least 1."""

    gradient_clip_val: float | None = None
    """Clip the norm of the gradient to this; null does not clip."""

    deterministic: bool = False
    """Only algorithms that give the same bits twice; slower on accelerators."""

    sync_batchnorm: bool = False
    """Batch norm over all devices."""

    log_every_n_steps: int = 10
    """Steps between two lines of metrics.csv, at least 1."""

    check_val_every_n_epoch: int = 1
    """Epochs between two measurements of test accuracy, at least 1."""

    limit_train_batches: int | float | None = None
    """Batches (a whole number) or share (0 to 1) of an epoch; null means all."""

    limit_val_batches: int | float | None = None
    """Batches (a whole number) or share (0 to 1) of the test images; null means all."""

    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv", "tensorboard")
    """Where metrics go: metrics.csv, TensorBoard events."""

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
                f"{unfit[0]} does not, got {self.strategy}; take ddp"
            )
        clip = self.gradient_clip_val
        check(clip is None or clip > 0, "gradient_clip_val", "above 0", clip)
        for name in ("limit_train_batches", "limit_val_batches"):
            check_share_or_count(name, getattr(self, name))


def check_share_or_count(name: str, value: int | float | None) -> None:
    """Refuse a limit that is neither a number of batches nor a share of them."""
    if isinstance(value, int):
        check(value >= 1, name, "at least 1 batch", value)
    elif value is not None:
        check(0 < value <= 1, name, "a share above 0 and at most 1", value)
