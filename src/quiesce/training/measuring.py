"""Passes over the training and test images of a run, with a progress line for each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from quiesce.data import Data
from quiesce.data.sampling import EpochSampler
from quiesce.inference import map_tensors
from quiesce.recipes.recipe import Recipe
from quiesce.training.display import Display
from quiesce.training.scores import Batch, batches_within, loss_and_top1
from quiesce.training.user_metric import user_metric


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Measures networks on the images of a recipe; batches are on `device`."""

    recipe: Recipe
    data: Data
    display: Display = field(default_factory=Display)
    device: torch.device | str = "cpu"

    def show_epoch(self, epoch: int) -> None:
        """Make later passes over training images use the order and augmentation of an epoch."""
        cast("EpochSampler", self.data.train.sampler).set_epoch(epoch)

    def training(self, title: str, count: int) -> Iterator[Batch]:
        """Yield the first `count` training batches of the epoch, at most a whole epoch."""
        count = min(count, len(self.data.train))  # reading on would end the epoch
        return self._batches(self.data.train, title, count)

    def test(self, title: str) -> Iterator[Batch]:
        """Yield the test batches, as many as `trainer.limit_val_batches` allows."""
        count = batches_within(self.recipe.trainer.limit_val_batches, len(self.data.test))
        return self._batches(self.data.test, title, count)

    def top1(self, network: nn.Module, what: str) -> float:
        """Return the accuracy on the test images, in percent."""
        return loss_and_top1(network, self.test(f"top-1, {what}")).top1_percent

    def metric(self, name: str, network: nn.Module, what: str) -> float:
        """Return the score of a user function on the test images."""
        return user_metric(name, network, self.test(f"metric, {what}"))

    def training_loss(self, network: nn.Module, what: str, count: int) -> float:
        """Return the cross-entropy on the first `count` training batches of the epoch."""
        return loss_and_top1(network, self.training(f"loss, {what}", count)).loss

    def _batches(self, loader: DataLoader, title: str, count: int) -> Iterator[Batch]:
        for batch in self.display.track(islice(loader, count), title, count):
            yield map_tensors(batch, lambda tensor: tensor.to(self.device))
