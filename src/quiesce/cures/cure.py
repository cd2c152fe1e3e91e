"""The base class of the cures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from quiesce.cures.learning_rates import LearningRate
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike, constant


class Cure(ABC):
    """Base class of a cure for oscillation; a cure overrides the methods that it needs.

    `Control` calls them in this order in every optimizer step:

        penalty         before the backward pass
        before_step     before the optimizer moves the weights
        after_update    after it, before the tracker reads the codes
        after_step      after the tracker has read the codes

    and `finish` once, after the last step. Frozen codes are in the weights, and frequencies and
    averages of codes in the tracker. A cure saves what it keeps besides these in `state_dict`.

    Examples:
        >>> class Decay(qs.Cure):
        ...     def attach(self, weights, tracker):
        ...         self.weights = weights
        ...
        ...     def penalty(self, step):
        ...         return sum(weight.latent.square().sum() for weight in self.weights)
        >>> control = qs.Control(optimizer, weights, tracker, [Decay()])
        >>> control.penalty().shape
        torch.Size([])
    """

    bytes_per_weight: ClassVar[int] = 0
    """What the cure keeps for each weight between steps, besides the tracker without it."""

    total: int | None = None
    """Optimizer steps of the whole training, if the `Control` was told; set before `attach`."""

    @abstractmethod
    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Set the weights and the tracker; `Control` calls this once, before the first step.

        Raises:
            TrackingError: The cure is not defined for these weights.
        """

    def refuse(self, others: Sequence["Cure"]) -> None:
        """Refuse other cures of the same `Control`, if they do not work together.

        Raises:
            TrackingError: One of them contradicts this one; the message gives the reason.
        """

    def penalty(self, step: int) -> Tensor | None:
        """Return the loss term of optimizer step `step`, a scalar, or None."""

    def before_step(self, step: int, rates: Mapping[str, LearningRate]) -> None:
        """Prepare for optimizer step `step`, before it moves the weights.

        The optimizer may compute gradients later (in a closure), and may skip the step; then this
        is called again for the same step.

        Args:
            step: The optimizer step, from 0.
            rates: Learning rate of each weight, by name.
        """

    def after_update(self, step: int) -> None:
        """Change latent weights or scales after optimizer step `step`, before they are tracked."""

    def after_step(self, step: int) -> None:
        """Act on the weights after optimizer step `step` and after the tracker has read them."""

    def finish(self) -> None:
        """Act on the weights after the last step."""

    def level(self, step: int) -> float | None:
        """Return the strength, threshold or rate in optimizer step `step`; None while it is off.

        Logs show it. The step is the last one or the next one.
        """
        return None

    def report(self) -> dict[str, Any]:
        """Return what the cure has done, as numbers and text for a report; empty if nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what the cure keeps between steps, besides the state of weights and tracker."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""


def as_schedule(value: float | ScheduleLike) -> ScheduleLike:
    """Convert a number to a constant schedule; return a schedule unchanged."""
    return value if callable(value) else constant(value)
