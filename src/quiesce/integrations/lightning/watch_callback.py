"""A `Watch` in a Lightning Trainer: no number goes wrong unseen, whatever the module.

    Trainer(callbacks=[WatchCallback()])

`QuiesceCallback` does this by itself; this one is for float networks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from quiesce.errors import MissingExtraError
from quiesce.health.watching import Watch

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
except ImportError as error:
    raise MissingExtraError("quiesce.lightning", "train") from error


class WatchCallback(Callback):
    """Checks every optimizer step, and all numbers before a checkpoint; see `quiesce.Watch`.

    Args:
        prefix: What the names of the module have in front that messages leave out.

    Attributes:
        watch: The `Watch`, from the start of training on.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.watch: Watch | None = None
        self._saved: dict[str, Any] | None = None
        self._loss: Tensor | None = None
        self._forward: Callable[[], Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the watch, now that the module is on its device and calibrated."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scaled = scaler is not None and scaler.is_enabled()
        self.watch = Watch(pl_module, scaled=scaled, prefix=self.prefix)
        if self._saved is not None:
            self.watch.load_state_dict(self._saved)
            self._saved = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember how this batch is run, should a layer have to be named."""
        self._forward = None
        if pl_module.automatic_optimization:  # else the training step would step again
            self._forward = lambda: _run_again(trainer, pl_module, batch, batch_idx)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Take in the loss; those of accumulated batches are added up."""
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the step, before clipping and the optimizer.

        Raises:
            DivergedError: As `Watch.check` does.
        """
        if self.watch is not None:
            self.watch.step = trainer.global_step
            self.watch.check(self._loss, self._forward)
        self._loss = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at every number before a checkpoint of it replaces the last good one.

        Raises:
            DivergedError: As `Watch.settle` does.
        """
        if self.watch is not None:
            self.watch.step = trainer.global_step
            self.watch.settle()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at every number once more; let go of the last batch."""
        self._forward = None
        if self.watch is not None:
            self.watch.step = trainer.global_step
            self.watch.settle()

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return self._saved or {} if self.watch is None else self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint; applied when training starts."""
        self._saved = state_dict or None


def _run_again(trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    with trainer.precision_plugin.train_step_context(), _without_logging(module):
        module.training_step(*((batch, index) if takes_index else (batch,)))


@contextmanager
def _without_logging(module: LightningModule) -> Iterator[None]:
    names = ("log", "log_dict")
    own = {name: vars(module)[name] for name in names if name in vars(module)}
    for name in names:
        setattr(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            delattr(module, name)
            if name in own:
                setattr(module, name, own[name])
