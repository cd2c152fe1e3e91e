"""The base class of the cures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike, constant


class Cure(ABC):
    """Base class of a cure for oscillation. All state is in the weights and the tracker."""

    @abstractmethod
    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Set the weights and the tracker; `Control` calls this once, before the first step."""

    @abstractmethod
    def penalty(self, step: int) -> Tensor | None:
        """Return the loss term of optimizer step `step`, a scalar, or None."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Act on the weights after optimizer step `step` and after the tracker has read them."""


def as_schedule(value: float | ScheduleLike) -> ScheduleLike:
    """Convert a number to a constant schedule; return a schedule unchanged."""
    return value if callable(value) else constant(value)
