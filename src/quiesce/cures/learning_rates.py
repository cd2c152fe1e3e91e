"""The learning rates of weights, read from the parameter groups of their optimizers."""

from collections.abc import Iterable
from typing import NamedTuple

from torch.optim import Optimizer

from quiesce.quantization.quantized_weight import QuantizedWeight


class LearningRate(NamedTuple):
    """The learning rate of a weight."""

    now: float
    """In this step."""
    initial: float
    """Before any schedule of torch changed it; equal to `now` without a schedule."""


def learning_rates(
    optimizers: Iterable[Optimizer], weights: Iterable[QuantizedWeight]
) -> dict[str, LearningRate]:
    """Return the learning rate of each weight that one of the optimizers moves, by name.

    A parameter group without a learning rate counts as having 1.
    """
    found = {
        id(parameter): group
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    rates = {}
    for weight in weights:
        group = found.get(id(weight.latent))
        if group is not None:
            now = float(group.get("lr", 1))
            rates[weight.name] = LearningRate(now, float(group.get("initial_lr", now)))
    return rates
