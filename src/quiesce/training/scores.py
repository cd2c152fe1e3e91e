"""Accuracy and loss of a network over all given images."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quiesce.errors import DataError
from quiesce.inference import inference
from quiesce.parallel.processes import total

Batch = tuple[Tensor, Tensor]
"""Images (batch, channels, height, width) and labels (batch,)."""


class Score(NamedTuple):
    """Loss and accuracy on some images."""

    loss: float
    """Cross-entropy, averaged over images."""
    top1_percent: float
    """Accuracy in percent."""


@torch.no_grad()
def loss_and_top1(network: nn.Module, batches: Iterable[Batch]) -> Score:
    """Measure a network on the images of all processes.

    Args:
        network: Used in evaluation mode; its mode is restored afterwards.
        batches: Images (batch, channels, height, width) and labels (batch,), on any device.

    Raises:
        DataError: `batches` is empty.
    """
    device = next(network.parameters()).device
    exact = torch.float32 if device.type == "mps" else torch.float64
    seen = torch.zeros(3, dtype=exact, device=device)  # images, images right, sum of losses
    with inference(network):
        for logits, labels in outputs(network, batches):
            right = (logits.argmax(1) == labels).sum()
            loss = cross_entropy(logits.float(), labels, reduction="sum")
            seen += torch.stack([right.new_tensor(len(labels)), right, loss.to(exact)])
    images_seen, right_ones, loss_sum = total(seen).tolist()
    if not images_seen:
        raise DataError("there is no image to measure the network on")
    return Score(loss_sum / images_seen, 100 * right_ones / images_seen)


def outputs(network: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield logits (batch, classes) and labels (batch,), on the device of the network."""
    device = next(network.parameters()).device
    for images, labels in batches:
        yield network(images.to(device)), labels.to(device)


def batches_within(limit: int | float | None, count: int) -> int:
    """Return how many of `count` batches a limit allows, at least 1.

    Args:
        limit: A number of batches, a share of them (0 to 1), or None for all.
    """
    if limit is None:
        return count
    return min(limit, count) if isinstance(limit, int) else max(1, int(limit * count))
