"""Diagnoses the weights of each layer: the tracker's report, and the latent weights."""

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from quiesce.diagnosis.codes import CodeCounts, code_counts
from quiesce.diagnosis.offsets import NEAR, Histogram, clipped, near_threshold, offset_histogram
from quiesce.oscillation.layer_report import LayerReport
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.quantization.kinds import Kind

QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, kw_only=True)
class LayerDiagnosis(LayerReport):
    """The tracker's report of a layer, and the positions of its weights."""

    kind: Kind
    """See `layer_kind`."""
    frequency_quantiles: dict[str, float]
    """Quantile, as text ("0.99"), to the frequency."""
    near_threshold: float
    """Share of weights whose latent weight is near a threshold, 0 to 1."""
    clipped: float
    """Share of weights whose latent weight is outside the grid, 0 to 1."""
    offsets: Histogram
    """Offsets of the latent weights inside the grid."""
    codes: CodeCounts
    """Codes of all weights."""


def diagnose_layers(
    tracker: OscillationTracker, *, cut: float = OSCILLATING, near: float = NEAR
) -> list[LayerDiagnosis]:
    """Return a diagnosis of each layer, in the order of the tracker's weights.

    Args:
        tracker: The tracker of a network in training, or restored from a checkpoint; it does not
            change.
        cut: Frequency above which a weight counts as oscillating.
        near: Distance from a threshold, in codes, that counts as near.
    """
    return [
        LayerDiagnosis(
            **{field.name: getattr(seen, field.name) for field in dataclasses.fields(seen)},
            kind=weight.kind,
            frequency_quantiles=quantiles(tracker.frequency(weight.name)),
            near_threshold=near_threshold(weight, near),
            clipped=clipped(weight),
            offsets=offset_histogram(weight),
            codes=code_counts(weight),
        )
        for weight, seen in zip(tracker.weights, tracker.report(cut), strict=True)
    ]


def quantiles(values: Tensor) -> dict[str, float]:
    """Return each of `QUANTILES` of the values, as text, to its value."""
    rising = values.flatten().sort().values  # torch.quantile refuses more than 2^24 values
    return {f"{q:g}": rising[math.ceil(q * len(rising)) - 1].item() for q in QUANTILES}
