"""Callback that runs a `Watch` in a Lightning Trainer; `QuiesceCallback` already includes it.

Trainer(callbacks=[WatchCallback()])
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
    """Checks every optimizer step, and all numbers before each checkpoint; see `quiesce.Watch`.

    Args:
        prefix: Prefix of names in the module that messages omit.

    Attributes:
        watch: The `Watch`; None before training starts.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.watch: Watch | None = None
        self._saved: dict[str, Any] | None = None
        self._loss: Tensor | None = None
        self._forward: Callable[[], Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the watch: the module is calibrated and on its device now."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scaled = scaler is not None and scaler.is_enabled()
        self.watch = Watch(pl_module, scaled=scaled, prefix=self.prefix)
        if self._saved is not None:
            self.watch.load_state_dict(self._saved)
            self._saved = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Store this batch, so that its forward pass can be repeated to find a faulty layer."""
        self._forward = None
        if pl_module.automatic_optimization:  # otherwise repeating would step the optimizer
            self._forward = lambda: _run_again(trainer, pl_module, batch, batch_idx)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Record the loss, summed over accumulated batches."""
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the gradients, before clipping and before the optimizer.

        Raises:
            DivergedError: See `Watch.check`.
        """
        if self.watch is not None:
            self.watch.step = trainer.global_step
            self.watch.check(self._loss, self._forward)
        self._loss = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check all numbers before the checkpoint replaces the last good one.

        Raises:
            DivergedError: See `Watch.settle`.
        """
        self._settle(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check all numbers again and release the last batch."""
        self._forward = None
        self._settle(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the watch, for Lightning's checkpoint."""
        return self._saved or {} if self.watch is None else self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state from Lightning's checkpoint until training starts."""
        self._saved = state_dict or None

    def _settle(self, trainer: Trainer) -> None:
        if self.watch is not None:
            self.watch.step = trainer.global_step
            self.watch.settle()


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
