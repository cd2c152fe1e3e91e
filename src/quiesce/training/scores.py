"""Accuracy and loss of a network over all given images."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quiesce.errors import DataError
from quiesce.inference import call_on_batch, inference, label_of, map_tensors
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
def loss_and_top1(network: nn.Module, batches: Iterable[Any]) -> Score:
    """Measure a network on the images of all processes.

    Args:
        network: Used in evaluation mode; its mode is restored afterwards. It returns logits
            (batch, classes).
        batches: An input of the network (see `quiesce.inference`) and labels (batch,) each, on any
            device.

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


def outputs(network: nn.Module, batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (batch, classes) and labels (batch,), on the device of the network."""
    device = next(network.parameters()).device
    for batch in batches:
        here = map_tensors(batch, lambda tensor: tensor.to(device))
        yield call_on_batch(network, here), label_of(here)


def batches_within(limit: int | float | None, count: int) -> int:
    """Return how many of `count` batches a limit allows, at least 1.

    Args:
        limit: A number of batches, a share of them (0 to 1), or None for all.
    """
    if limit is None:
        return count
    return min(limit, count) if isinstance(limit, int) else max(1, int(limit * count))
