"""Summarizes oscillation over several layers.

Most codes of the 8-bit first and last layer change at every step, because they are close together;
this does no harm. They would dominate a total, so totals include only layers with at most the bits
of the scheme, as in the paper's code. summary.json lists every layer.
"""

from collections.abc import Iterable, Sequence

from quiesce.oscillation.layer_report import LayerReport
from quiesce.run_folder.contents import Shares


def up_to(bits: int, layers: Iterable[LayerReport]) -> list[LayerReport]:
    """Return the layers with at most this many bits."""
    return [layer for layer in layers if layer.bits is not None and layer.bits <= bits]


def over(layers: Sequence[LayerReport]) -> Shares:
    """Return counts and shares (0 to 1) over all weights of `layers`; None if there are none."""
    weights = sum(layer.weights for layer in layers)

    def share(what: str) -> float | None:
        total = sum(getattr(layer, what) * layer.weights for layer in layers)
        return total / weights if weights else None

    return Shares(
        weights=weights,
        flips_per_step=sum(layer.flips_per_step for layer in layers),
        oscillating=share("oscillating"),
        frozen=share("frozen"),
        transition_rate=share("transition_rate"),
    )
