"""Snap: after training, each weight that still oscillates gets the code that it had most often.

    for each weight whose frequency is above `cut` after the last step:
        code = round(average of its codes)
        freeze it

Which of its two codes an oscillating weight ends on is left to chance. The average of its codes
rounds to the one that is nearer to the optimum. `quiesce.diagnosis.learn_codes` chooses from the
loss instead.

This is the rule of freezing (Nagel et al., ICML 2022, arXiv:2203.11086), applied once.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from quiesce.cures.cure import Cure
from quiesce.cures.freezer import Freezer
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight


class Snap(Cure):
    """Freezes all oscillating weights after the last step, when `Control.finish` is called.

    Args:
        cut: Frequency above which a weight is frozen, in (0, 1].
        max_bits: Weights with more bits are never frozen.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.Snap()])
        >>> optimizer.step()
        >>> control.finish()
        >>> weights[0].frozen.any().item()
        False
    """

    bytes_per_weight: ClassVar[int] = 4
    """The average of codes, which the tracker keeps; shared with freezing."""

    def __init__(self, cut: float = OSCILLATING, max_bits: int = 4) -> None:
        if not 0 < cut <= 1:
            raise ValueError(f"cut must be a frequency above 0 and at most 1, got {cut}")
        self.cut = cut
        self._freezer = Freezer(max_bits)
        self._frozen = 0

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the weights with at most `max_bits`; make the tracker follow their averages.

        Raises:
            TrackingError: There is none.
        """
        self._freezer.attach(weights, tracker)
        self._freezer.refuse_none("Snap")
        self._frozen = 0

    @torch.no_grad()
    def finish(self) -> None:
        """Freeze the weights that oscillate."""
        before = self._count()
        self._freezer.freeze_above(self.cut)
        self._frozen += self._count() - before

    def report(self) -> dict[str, Any]:
        """Return the number of weights that were frozen at the end."""
        return {"snapped": self._frozen}

    def _count(self) -> int:
        return self._freezer.total([group.count_frozen() for group in self._freezer.groups])
