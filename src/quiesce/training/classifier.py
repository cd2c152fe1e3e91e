"""The LightningModule of both stages: cross-entropy, one optimizer, one schedule.

Nothing here knows about oscillation or watches for numbers that go wrong; the callbacks of
`quiesce.lightning` do all of that.
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

from quiesce.parallel.processes import follow_first, told, total
from quiesce.recipes.ramps import learning_rate_factor
from quiesce.recipes.sections import LrScheduleConfig
from quiesce.training.scores import Batch

NETWORK_PREFIX = "network."
"""What the names of a network's layers begin with inside the module."""


class Classifier(LightningModule):
    """Trains a network, float or prepared, to classify images.

    Args:
        network: Its forward maps images to logits (batch, classes).
        make_optimizer: Called once with the network, when it is on its device.
        lr_schedule: Shape of the learning rate over all optimizer steps of the stage.
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
        self.begun = False
        """Whether a batch has been begun: until then a checkpoint is being taken up."""
        self.busy_s = 0.0
        """Seconds in training batches, without validation and loading."""
        self._losses: Tensor | float = 0.0  # summed over the epoch: Lightning saves no averages
        self._batches = 0
        self._loss: Tensor | float = 0.0
        self._right: list[Tensor] = []  # classified right, of each batch of a validation
        self._seen = 0  # images of it

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self.network(images)

    def configure_optimizers(self) -> Any:
        """One optimizer, whose learning rates move once per optimizer step."""
        optimizer = self._make_optimizer(self.network)
        total = int(self.trainer.estimated_stepping_batches)
        factor = learning_rate_factor(self._lr_schedule, total)
        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch."""
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self._loss = loss.detach()
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Count the batch: it may be run again after, to see whose output went bad."""
        self._losses = self._losses + self._loss
        self._batches += 1

    def on_validation_start(self) -> None:
        """Measure one network in all processes, none of which waits for another until the end.

        DistributedDataParallel would copy the buffers of the first process at a forward, which
        another process may never come to: shares of the test images are not equal.
        """
        follow_first(self.network)
        self._copy_buffers(False)
        self._right, self._seen = [], 0

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count the images of the batch that are classified right."""
        images, labels = batch
        self._right.append((self(images).argmax(1) == labels).sum())
        self._seen += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Log the share of the images of all processes that are classified right, in percent."""
        right = torch.stack(self._right).sum()
        right, seen = total(torch.stack([right, right.new_tensor(self._seen)])).tolist()
        top1 = 100 * right / seen
        self.log("top1_percent", top1, prog_bar=True, sync_dist=True, reduce_fx="max")

    def on_validation_end(self) -> None:
        """Train on as before."""
        self._copy_buffers(True)

    def on_train_end(self) -> None:
        """Go on with one network in all processes, the one of the last checkpoint."""
        follow_first(self.network)

    def _copy_buffers(self, copies: bool) -> None:
        if isinstance(model := self.trainer.strategy.model, DistributedDataParallel):
            model.broadcast_buffers = copies

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self.begun = True
        self._batch_started_s = perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the clock; the watch has waited for the device to be at most a step behind."""
        self.busy_s += perf_counter() - self._batch_started_s

    def on_train_epoch_start(self) -> None:
        """Begin a new average of the loss; not called where an epoch goes on."""
        self._losses, self._batches = 0.0, 0

    def on_train_epoch_end(self) -> None:
        """Log the loss of the epoch."""
        self.log("epoch_loss", self._losses / max(1, self._batches), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an epoch that is not over has come to, in each process."""
        mine = {"losses": float(self._losses), "batches": self._batches, "busy_s": self.busy_s}
        checkpoint["epoch_so_far"] = told(mine)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        everyone = checkpoint["epoch_so_far"]
        state = everyone[self.global_rank % len(everyone)]
        self._losses, self._batches = state["losses"], state["batches"]
        self.busy_s = state["busy_s"]
