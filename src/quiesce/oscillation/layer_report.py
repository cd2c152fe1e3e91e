"""Tracker reports of a layer and of all layers together."""

from collections.abc import Sequence
from dataclasses import dataclass

from quiesce.text_table import table


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Oscillation statistics of one layer, or of all layers together.

    Examples:
        >>> [report] = tracker.report()  # a LayerReport for each layer
        >>> report.weights, report.bits, report.oscillating
        (32, 3, 0.0)
    """

    name: str
    """Name of the layer; "all" for the summary."""
    weights: int
    """Number of weights."""
    bits: int | None
    """Bits of a code, or None if layers differ."""
    oscillating: float
    """Fraction of weights whose frequency is above the cut, 0 to 1. The frequency of a weight that
    was frozen lately has not fallen yet."""
    frozen: float
    """Fraction of weights whose code is frozen, 0 to 1."""
    locked: float = 0.0
    """Fraction of weights excluded from training by requires_grad_(False), 0 to 1."""
    flips_per_step: float
    """Mean number of codes that change per step."""
    total_oscillations: int
    """Number of oscillations of all weights since the start."""
    total_grid_changes: int | None = None
    """Number of code changes since the start that the grid alone caused; they are no flips. None if
    they count as flips."""
    distance_ratio: float | None
    """See `quiesce.oscillation.distance_ratio`; None if it is not measured."""
    transition_rate: float
    """Fraction of codes that change per step, as a running average from 0 with momentum 0.99."""


SHOWN = 10
"""Maximum number of layers in the table of a summary."""


@dataclass(frozen=True, kw_only=True)
class Summary(LayerReport):
    """Statistics of all layers; `print` shows a table of the layers that oscillate most."""

    steps: int
    """Optimizer steps that the tracker has seen."""
    layers: tuple[LayerReport, ...]
    """Reports of the layers, in the order of the weights."""

    def __str__(self) -> str:
        if not self.steps:
            return (
                f"{self.weights} weights, 0 steps: the tracker has seen no optimizer step. Does "
                "the optimizer that was given to Control make the steps?"
            )
        worst = sorted(self.layers, key=lambda layer: -layer.oscillating)[:SHOWN]
        rows = [("layer", "weights", "bits", "oscillating %", "frozen %", "flips/step", "")]
        text = table(rows + [_row(layer) for layer in [self, *worst]])
        left = len(self.layers) - len(worst)
        more = f"\n{left} more layers oscillate less" if left else ""
        return f"after {self.steps} steps:\n{text}{more}"


def _row(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name or "(the model)",
        str(layer.weights),
        "" if layer.bits is None else str(layer.bits),
        f"{100 * layer.oscillating:.2f}",
        f"{100 * layer.frozen:.2f}",
        f"{layer.flips_per_step:.2f}",
        {0.0: "", 1.0: "locked"}.get(layer.locked, f"{100 * layer.locked:.0f} % locked"),
    )


def overall(layers: Sequence[LayerReport], distance_ratio: float | None, steps: int) -> Summary:
    """Return one report over all layers, in which all weights count equally.

    Args:
        layers: Reports of at least one layer.
        distance_ratio: Distance ratio over all layers; it cannot be computed from those of layers.
        steps: Number of optimizer steps so far.
    """
    total = sum(layer.weights for layer in layers)
    bits = {layer.bits for layer in layers}

    def mean(field: str) -> float:
        return sum(getattr(layer, field) * layer.weights for layer in layers) / total

    return Summary(
        name="all",
        steps=steps,
        layers=tuple(layers),
        weights=total,
        bits=bits.pop() if len(bits) == 1 else None,
        oscillating=mean("oscillating"),
        frozen=mean("frozen"),
        locked=mean("locked"),
        flips_per_step=sum(layer.flips_per_step for layer in layers),
        total_oscillations=sum(layer.total_oscillations for layer in layers),
        total_grid_changes=_total([layer.total_grid_changes for layer in layers]),
        distance_ratio=distance_ratio,
        transition_rate=mean("transition_rate"),
    )


def _total(values: Sequence[int | None]) -> int | None:
    """Return the sum of the values that are known, or None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
