"""Oscillation over several layers in one number.

The codes of the 8-bit first and last layer lie so close together that most of them change at every
step, to no harm. They would hide the rest, so one number is told of the layers that have the bits
of the scheme or fewer; the paper's own code does not track wider ones at all. Each layer by itself
is in summary.json, the wide ones too.
"""

from collections.abc import Iterable, Sequence

from quiesce.oscillation.layer_report import LayerReport


def up_to(bits: int, layers: Iterable[LayerReport]) -> list[LayerReport]:
    """Return the layers whose codes have at most so many bits."""
    return [layer for layer in layers if layer.bits is not None and layer.bits <= bits]


def over(layers: Sequence[LayerReport]) -> dict[str, float | None]:
    """Return counts and shares (0 to 1) over `layers`, each weight counting once; None of none."""
    weights = sum(layer.weights for layer in layers)

    def share(what: str) -> float | None:
        total = sum(getattr(layer, what) * layer.weights for layer in layers)
        return total / weights if weights else None

    return {
        "weights": weights,
        "flips_per_step": sum(layer.flips_per_step for layer in layers),
        **{what: share(what) for what in ("oscillating", "frozen", "transition_rate")},
    }
