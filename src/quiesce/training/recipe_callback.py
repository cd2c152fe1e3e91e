"""Creates the cures of a recipe when training starts, because they need the number of steps."""

from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from torch.optim import Optimizer

import quiesce as qs
from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback
from quiesce.recipes.ramps import ramp
from quiesce.recipes.recipe import Recipe
from quiesce.recipes.sections import CureConfig
from quiesce.training.classifier import NETWORK_PREFIX
from quiesce.training.recording.oscillation_shares import over, up_to


class RecipeCallback(QuiesceCallback):
    """The QuiesceCallback of a recipe; it also logs the tracker's values.

    Every `log_every_n_steps` it logs, over the layers with at most the bits of the scheme:
    `oscillating` and `frozen`, shares from 0 to 1, and `flips_per_step`, a number of codes. It also
    logs `lr`, the learning rate of the weights in this step, and `cure`, the strength of dampening
    or the threshold of freezing in this step, unless the cure is off.
    """

    def __init__(self, recipe: Recipe) -> None:
        bits = recipe.scheme.weight_bits
        averaged = bits if recipe.recording.averages else None
        super().__init__(
            momentum=recipe.tracker.momentum,
            average_up_to=averaged,
            verify_every=recipe.tracker.verify_every,
            prefix=NETWORK_PREFIX,
        )
        self._cure = recipe.cure
        self._bits = bits
        self._lr = 0.0
        self._step = 0  # without steps that a GradScaler skipped

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the cures, then start tracking."""
        self.cures = make_cures(self._cure, int(trainer.estimated_stepping_batches))
        self._level = cure_level(self._cure, int(trainer.estimated_stepping_batches))
        super().on_train_start(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Store learning rate and step: after the batch they are those of the next step."""
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        if self.control is not None:
            self._step = self.control.step
        self._lr = optimizer.param_groups[0]["lr"]  # weights come first, then scales

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the processes if that is due, and log the state of the weights."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.global_step % every == 0:
            seen = over(up_to(self._bits, self.tracker.report()))
            logged = {
                what: getattr(seen, what) for what in ("oscillating", "frozen", "flips_per_step")
            }
            logged |= {"lr": self._lr, "cure": self._level(self._step)}
            for what, value in logged.items():
                if value is not None:
                    pl_module.log(what, value)


def cure_level(config: CureConfig, total: int) -> Callable[[int], float | None]:
    """Return a function from step to strength or threshold; None while the cure is off."""
    if config.kind == "none":
        return lambda _: None
    schedule = ramp(config.strength if config.kind == "dampen" else config.threshold, total)

    def level(step: int) -> float | None:
        waiting = config.kind == "freeze" and step < schedule.begin_step
        return None if waiting else schedule(step) or None

    return level


def make_cures(config: CureConfig, total: int) -> list[qs.Cure]:
    """Return the cures of `config`, over `total` optimizer steps."""
    if config.kind == "dampen":
        return [qs.Dampening(ramp(config.strength, total), aggregation=config.aggregation)]
    if config.kind == "freeze":
        average = "code" if config.average == "code" else None
        threshold = ramp(config.threshold, total)
        limits = {"max_bits": config.max_bits, "max_frozen": config.max_frozen}
        return [qs.Freezing(threshold, average=average, **limits)]
    return []
