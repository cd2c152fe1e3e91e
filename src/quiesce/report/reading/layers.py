"""Layers and batch norms of a run without a diagnosis, and shares over layers."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from quiesce.report.run_data import DEPTHWISE
from quiesce.run_folder.contents import (
    DiagnosedLayer,
    DiagnosedNorm,
    KeptScheme,
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


def planned_bits(scheme: KeptScheme, names: Sequence[str]) -> dict[str, int]:
    """Return the bits of each layer by the recipe; empty if it has no scheme.

    Args:
        names: The layers in the order of the network; the first and the last are special.
    """
    if scheme.weight_bits is None or not names:
        return {}
    bits = dict.fromkeys(names, scheme.weight_bits)
    if scheme.first_last_bits is not None:
        bits |= {names[0]: scheme.first_last_bits, names[-1]: scheme.first_last_bits}
    for pattern, changes in scheme.overrides.items():
        if changes.weight_bits is not None:
            bits |= {name: changes.weight_bits for name in names if fnmatchcase(name, pattern)}
    return bits


def share(layers: Iterable[DiagnosedLayer], what: str) -> float | None:
    """Return a share over all weights of the layers that have it, or None if no layer has it."""
    known = [(getattr(layer, what), layer.weights) for layer in layers]
    known = [(value, weights) for value, weights in known if value is not None]
    total = sum(weights for _, weights in known)
    return sum(value * weights for value, weights in known) / total if total else None
