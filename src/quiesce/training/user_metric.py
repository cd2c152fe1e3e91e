"""User metrics besides top-1: `metric` in a recipe is `module:name` of a function."""

from collections.abc import Iterable
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor, nn

from quiesce.errors import RecipeError
from quiesce.inference import inference
from quiesce.parallel.processes import gathered
from quiesce.training.scores import Batch, outputs
from quiesce.user_code import find, run

FIELD = "metric"


class Metric(Protocol):
    """A function that scores a network on all test images at once."""

    def __call__(self, logits: Tensor, labels: Tensor) -> float | Tensor:
        """Return one number; more is better.

        Args:
            logits: float32 of shape (images, classes), on the CPU; with several processes, the
                images are not in the order of the data set.
            labels: Index of the class of each image, of shape (images,).
        """
        ...


def user_metric(name: str, network: nn.Module, batches: Iterable[Batch]) -> float:
    """Score a network with the user function of a recipe.

    Args:
        name: "mymodule:score", see `Metric`.
        network: Used in evaluation mode; its mode is restored afterwards.

    Raises:
        RecipeError: The function does not exist, fails, or does not return a finite number.
    """
    score, where = find(name, FIELD), f"{FIELD}: {name}"
    with inference(network), torch.no_grad():
        pairs = [(out.float(), labels) for out, labels in outputs(network, batches)]
        halves = (torch.cat(gathered(torch.cat(half))) for half in zip(*pairs, strict=True))
        logits, labels = (half.cpu() for half in halves)
    found = run(lambda: float(score(logits, labels)), where)
    if not isfinite(found):
        raise RecipeError(f"{where} must return a finite number, and returns {found}")
    return found
