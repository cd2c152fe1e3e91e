"""What every cure is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike, constant


class Cure(ABC):
    """Something done about oscillation. State lives in weights and tracker, never in the cure."""

    @abstractmethod
    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Learn what to act on; called once, by `Control`, before the first step."""

    @abstractmethod
    def penalty(self, step: int) -> Tensor | None:
        """A term of the loss of optimizer step `step`, a scalar, or None."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Act on the weights as optimizer step `step` left them; the tracker has read them."""


def as_schedule(value: float | ScheduleLike) -> ScheduleLike:
    """A number as the schedule that always gives it; a schedule as itself."""
    return value if callable(value) else constant(value)
