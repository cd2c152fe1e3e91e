"""The LightningModule of both training stages: cross-entropy, one optimizer, one schedule.

It does not track oscillation or check for numbers that are not finite; the callbacks of
`quiesce.lightning` do.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from quiesce.parallel.processes import follow_first, gathered_objects, total
from quiesce.recipes.ramps import learning_rate_factor
from quiesce.recipes.sections import LrScheduleConfig
from quiesce.training.scores import Batch

NETWORK_PREFIX = "network."
"""Prefix of the names of the network's layers in the module."""


class Classifier(LightningModule):
    """Trains a float or prepared network to classify images.

    Args:
        network: Maps images to logits of shape (batch, classes).
        make_optimizer: Called once with the network, after it was moved to its device.
        lr_schedule: Learning-rate schedule over all optimizer steps of the stage.
    """

    def __init__(
        self,
        network: nn.Module,
        make_optimizer: Callable[[nn.Module], Optimizer],
        lr_schedule: LrScheduleConfig,
    ) -> None:
        super().__init__()
        self.network = network
        self._make_optimizer = make_optimizer
        self._lr_schedule = lr_schedule
        self.busy_s = 0.0
        """Time in training batches, in seconds, without validation and data loading."""
        self._done = 0  # batches of this process
        # summed over the epoch, because Lightning's averages are not in its checkpoints
        self._losses: Tensor | float = 0.0
        self._batches = 0
        self._loss: Tensor | float = 0.0
        self._right: list[Tensor] = []  # correct images of each validation batch
        self._seen = 0  # images of this validation

    @property
    def stepped(self) -> bool:
        """Whether this process has made an optimizer step."""
        return self._done >= self.trainer.accumulate_grad_batches

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        return self.network(images)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and a schedule that is updated once per optimizer step."""
        optimizer = self._make_optimizer(self.network)
        total = int(self.trainer.estimated_stepping_batches)
        factor = learning_rate_factor(self._lr_schedule, total)
        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self._loss = loss.detach()
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Count the batch here, because the watch may repeat its forward pass later."""
        self._losses = self._losses + self._loss
        self._batches += 1

    def on_validation_start(self) -> None:
        """Give all processes the same buffers, then keep DDP from copying them in each forward.

        The processes may have different numbers of test batches, so a copy in a forward could wait
        forever.
        """
        follow_first(self.network)
        self._copy_buffers(False)
        self._right, self._seen = [], 0

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count the images of the batch that are classified correctly."""
        images, labels = batch
        self._right.append((self(images).argmax(1) == labels).sum())
        self._seen += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over the images of all processes, in percent."""
        right = torch.stack(self._right).sum()
        right, seen = total(torch.stack([right, right.new_tensor(self._seen)])).tolist()
        top1 = 100 * right / seen
        self.log("top1_percent", top1, prog_bar=True, sync_dist=True, reduce_fx="max")

    def on_validation_end(self) -> None:
        """Allow DDP to copy buffers again."""
        self._copy_buffers(True)

    def on_train_end(self) -> None:
        """Copy the first process's buffers, which the last checkpoint holds, to all processes."""
        follow_first(self.network)

    def _copy_buffers(self, copies: bool) -> None:
        if isinstance(model := self.trainer.strategy.model, DistributedDataParallel):
            model.broadcast_buffers = copies

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start timing the batch."""
        self._batch_started_s = perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop timing the batch; because of the watch, the device is at most one step behind."""
        self.busy_s += perf_counter() - self._batch_started_s
        self._done += 1

    def on_train_epoch_start(self) -> None:
        """Reset the average loss; Lightning does not call this when it resumes within an epoch."""
        self._losses, self._batches = 0.0, 0

    def on_train_epoch_end(self) -> None:
        """Log the average loss of the epoch."""
        self.log("epoch_loss", self._losses / max(1, self._batches), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the loss of the unfinished epoch so far, for each process."""
        mine = {"losses": float(self._losses), "batches": self._batches, "busy_s": self.busy_s}
        checkpoint["epoch_so_far"] = gathered_objects(mine)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loss of the unfinished epoch."""
        everyone = checkpoint["epoch_so_far"]
        state = everyone[self.global_rank % len(everyone)]
        self._losses, self._batches = state["losses"], state["batches"]
        self.busy_s = state["busy_s"]
