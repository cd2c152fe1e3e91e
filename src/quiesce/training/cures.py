"""The cures of a recipe: made when training starts, when the number of steps is known."""

from typing import Any

from lightning import LightningModule, Trainer
from torch.nn.parallel import DistributedDataParallel

import quiesce as qs
from quiesce.lightning import QuiesceCallback
from quiesce.training.oscillation import over, up_to
from quiesce.training.recipe import Recipe
from quiesce.training.schedules import ramp
from quiesce.training.sections import CureConfig


class RecipeCallback(QuiesceCallback):
    """The QuiesceCallback that a recipe describes; it also logs what the tracker sees.

    Logged every `log_every_n_steps`, over the layers with the bits of the scheme or fewer:
    `oscillating` and `frozen`, shares from 0 to 1, and `flips_per_step`, in codes.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(momentum=recipe.tracker.momentum)
        self._cure = recipe.cure
        self._bits = recipe.scheme.weight_bits

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the weights' history out of DistributedDataParallel's broadcasts.

        All processes step alike, so their records agree without being sent at every forward.
        """
        records = [name for name, _ in pl_module.named_buffers() if name.endswith(".history")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(pl_module, records)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the cures, then do what every QuiesceCallback does."""
        self.cures = make_cures(self._cure, int(trainer.estimated_stepping_batches))
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the state of the weights."""
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.global_step % every == 0:
            seen = over(up_to(self._bits, self.tracker.report()))
            for what in ("oscillating", "frozen", "flips_per_step"):
                if (value := seen[what]) is not None:
                    pl_module.log(what, value)


def make_cures(config: CureConfig, total: int) -> list[qs.Cure]:
    """Return the cures that `config` describes, over `total` optimizer steps."""
    if config.kind == "dampen":
        return [qs.Dampening(ramp(config.strength, total), aggregation=config.aggregation)]
    if config.kind == "freeze":
        average = "code" if config.average == "code" else None
        threshold = ramp(config.threshold, total)
        return [qs.Freezing(threshold, average=average, max_bits=config.max_bits)]
    return []
