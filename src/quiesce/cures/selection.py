"""The weights that a cure acts on."""

from collections.abc import Sequence

from torch import Tensor

from quiesce.arithmetic.grid import check_bits
from quiesce.errors import TrackingError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.oscillation.weight_group import WeightGroup
from quiesce.oscillation.weight_parts import over_parts
from quiesce.quantization.quantized_weight import QuantizedWeight


class Selection:
    """The weights with at most some bits, and their groups.

    Args:
        max_bits: Weights with more bits are left out.

    Attributes:
        names: Names of the weights.
        groups: The groups of the tracker that contain some of them.

    Raises:
        ValueError: `max_bits` is out of range.
    """

    def __init__(self, max_bits: int) -> None:
        check_bits("max_bits", max_bits)
        self.max_bits = max_bits
        self.names: set[str] = set()
        self.groups: list[WeightGroup] = []
        self._tracker: OscillationTracker | None = None

    def attach(
        self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker
    ) -> list[QuantizedWeight]:
        """Select from `weights`; return the selection."""
        chosen = [weight for weight in weights if weight.grid.bits <= self.max_bits]
        self.names = {weight.name for weight in chosen}
        self._tracker = tracker
        self.groups = [
            group
            for group in tracker.groups
            if any(weight.name in self.names for weight in group.weights)
        ]
        return chosen

    @property
    def tracker(self) -> OscillationTracker:
        """The tracker.

        Raises:
            TrackingError: The cure has not been passed to a `Control`.
        """
        if self._tracker is None:
            raise TrackingError("this cure has no weights; pass it to quiesce.Control first")
        return self._tracker

    @property
    def free(self) -> list[QuantizedWeight]:
        """The selected weights that are not locked now; locks can change during training."""
        _ = self.tracker  # raises an error without one
        return [
            weight
            for group in self.groups
            for weight, allowed in zip(group.weights, self.allowed(group), strict=True)
            if allowed
        ]

    def allowed(self, group: WeightGroup) -> list[bool]:
        """Return which layers of a group are selected and not locked now."""
        return [weight.name in self.names and not weight.locked for weight in group.weights]

    def total(self, counts: Sequence[Tensor]) -> int:
        """Return the sum of counts over the groups and, of split weights, over all processes.

        Args:
            counts: Counts of the layers of each group in this process: (layers,) each.
        """
        by_name = {
            weight.name: count.view(1).double()
            for group, row in zip(self.groups, counts, strict=True)
            for weight, count in zip(group.weights, row, strict=True)
        }
        weights = [weight for weight in self.tracker.weights if weight.name in by_name]
        return round(over_parts(weights, [by_name[w.name] for w in weights]).sum().item())

    def refuse_none(self, cure: str) -> None:
        """Refuse a selection without weights.

        Raises:
            TrackingError: No weight has so few bits.
        """
        if not self.names:
            bits = sorted({weight.grid.bits for weight in self.tracker.weights})
            raise TrackingError(
                f"{cure} acts on weights with at most {self.max_bits} bits, and these have "
                f"{' and '.join(map(str, bits))}; use a scheme with fewer bits, or raise max_bits"
            )


def refuse_copies(weights: Sequence[QuantizedWeight], cure: str) -> None:
    """Refuse weights of other toolkits, for cures that change latents which are not frozen.

    Raises:
        TrackingError: There is one.
    """
    for weight in weights:
        if not weight.is_held:
            raise TrackingError(
                f"{weight.name}: {cure} changes latent weights, and of those of another toolkit "
                "quiesce changes frozen ones only; use freezing, dampening or TRS, or "
                "quiesce.prepare"
            )
