"""Creates the cures of a recipe when training starts, because they need the number of steps."""

from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from torch.optim import Optimizer

from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback
from quiesce.recipes.recipe import Recipe
from quiesce.training.classifier import NETWORK_PREFIX
from quiesce.training.recipe_cures import make_cures
from quiesce.training.recording.oscillation_shares import over, up_to


class RecipeCallback(QuiesceCallback):
    """The QuiesceCallback of a recipe; it also logs the tracker's values.

    Every `log_every_n_steps` it logs, over the layers with at most the bits of the scheme:
    `oscillating` and `frozen`, shares from 0 to 1, and `flips_per_step`, a number of codes. It also
    logs `lr`, the learning rate of the weights in this step, and `cure`, the level of the first
    cure in this step (`quiesce.Cure.level`), unless the cure is off.
    """

    def __init__(self, recipe: Recipe) -> None:
        bits = recipe.scheme.weight_bits
        averages = recipe.recording.averages or recipe.cure.snap == "learned"
        averaged = bits if averages else None
        super().__init__(
            momentum=recipe.tracker.momentum,
            average_up_to=averaged,
            verify_every=recipe.tracker.verify_every,
            prefix=NETWORK_PREFIX,
        )
        self.at_end: Callable[[], dict[str, Any]] | None = None
        """Called when training ends, after the cures have finished; returns what it has done."""
        self._done_at_end: list[dict[str, Any]] = []
        self._cure = recipe.cure
        self._bits = bits
        self._lr = 0.0
        self._step = 0  # without steps that a GradScaler skipped

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the cures, then start tracking."""
        self.cures = make_cures(self._cure, int(trainer.estimated_stepping_batches))
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
            logged |= {"lr": self._lr, "cure": self._level()}
            for what, value in logged.items():
                if value is not None:
                    pl_module.log(what, value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the cures finish, then call `at_end`."""
        super().on_train_end(trainer, pl_module)
        if self.at_end is not None:
            self._done_at_end = [self.at_end()]

    def report(self) -> list[dict[str, Any]]:
        """Return what each cure has done, and what was done after them."""
        return super().report() + self._done_at_end

    def _level(self) -> float | None:
        """Return the level of the first cure in the step of the last batch."""
        return self.cures[0].level(self._step) if self.cures else None
