"""Layers and batch norms of a run without a diagnosis, and shares over layers."""

from collections.abc import Iterable

from quiesce.report.run_data import DEPTHWISE
from quiesce.run_folder.contents import (
    DiagnosedLayer,
    DiagnosedNorm,
    LayerNumbers,
    Summary,
)


def summarized_layers(summary: Summary) -> tuple[DiagnosedLayer, ...]:
    """Return the layers of a summary, which only records whether a layer is depth-wise."""
    return tuple(
        DiagnosedLayer(
            **{field: getattr(each, field) for field in LayerNumbers.__struct_fields__},
            kind=DEPTHWISE if each.depthwise else "other",
        )
        for each in summary.oscillation.layers
    )


def summarized_batchnorms(summary: Summary) -> tuple[DiagnosedNorm, ...]:
    """Return the batch norms of a summary, which does not record their input layers."""
    return tuple(
        DiagnosedNorm(name=name, kind="not diagnosed", kl_mean=kl.mean, kl_max=kl.max)
        for name, kl in summary.batchnorm_kl.items()
    )


def share(layers: Iterable[DiagnosedLayer], what: str) -> float | None:
    """Return a share over all weights of the layers that have it, or None if no layer has it."""
    known = [(getattr(layer, what), layer.weights) for layer in layers]
    known = [(value, weights) for value, weights in known if value is not None]
    total = sum(weights for _, weights in known)
    return sum(value * weights for value, weights in known) / total if total else None
