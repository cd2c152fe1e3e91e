"""Layers and batch norms of a run, from its summary.json or its diagnosis.json."""

from collections.abc import Iterable, Sequence, Sized
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from quiesce.report.run_data import DEPTHWISE, BatchNorm, Histogram, Layer
from quiesce.run_folder.contents import DiagnosisFile, KeptScheme, LayerNumbers, Summary

T = TypeVar("T", bound=Sized)

MOST_LAYERS = 20_000
"""Largest number of layers on a page; each is a row of a table."""


def summarized_layers(summary: Summary) -> tuple[Layer, ...]:
    """Return the layers of a summary, which only tells whether a layer is depth-wise."""
    return tuple(
        Layer(**_common(each), kind=DEPTHWISE if each.depthwise else "other")
        for each in _few(summary.oscillation.layers)
    )


def diagnosed_layers(diagnosis: DiagnosisFile) -> tuple[Layer, ...]:
    """Return the layers of a diagnosis, with their histograms."""
    return tuple(
        Layer(
            **_common(each),
            kind=each.kind,
            near_threshold=each.near_threshold,
            offsets=each.offsets and _histogram(each.offsets.edges, each.offsets.counts, 1),
            codes=each.codes and _histogram(each.codes.code, each.codes.counts, 0),
        )
        for each in _few(diagnosis.layers)
    )


def _few(layers: T) -> T:
    """Return layers; raises ValueError if they are more than a page can show."""
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{len(layers):,} layers are more than the {MOST_LAYERS:,} of a page")
    return layers


def _common(layer: LayerNumbers) -> dict[str, Any]:
    names = ("name", "weights", "bits", "oscillating", "frozen", "flips_per_step")
    return {name: getattr(layer, name) for name in (*names, "distance_ratio", "transition_rate")}


def _histogram(places: Sequence[float], counts: Sequence[int], more: int) -> Histogram:
    if len(places) != len(counts) + more:
        raise ValueError(f"{len(counts)} counts do not fit {len(places)} places")
    return Histogram(places=np.asarray(places, float), counts=np.asarray(counts, float))


def planned_bits(scheme: KeptScheme, names: Sequence[str]) -> dict[str, int]:
    """Return the bits that a recipe has for each layer; nothing if it has no scheme.

    Args:
        scheme: The scheme of the recipe.
        names: The layers in the order of the network: the first and the last are special.
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


def summarized_batchnorms(summary: Summary) -> tuple[BatchNorm, ...]:
    """Return the batch norms of a summary, which does not tell what feeds them."""
    return tuple(
        BatchNorm(name=name, kind="not diagnosed", kl_mean=kl.mean, kl_max=kl.max)
        for name, kl in _few(summary.batchnorm_kl).items()
    )


def diagnosed_batchnorms(diagnosis: DiagnosisFile) -> tuple[BatchNorm, ...]:
    """Return the batch norms of a diagnosis."""
    return tuple(
        BatchNorm(name=each.name, kind=each.kind, kl_mean=each.kl_mean, kl_max=each.kl_max)
        for each in _few(diagnosis.batchnorm)
    )


def share(layers: Iterable[Layer], what: str) -> float | None:
    """Return a share over the weights of some layers, or None if no layer has it.

    Args:
        layers: The layers.
        what: A field of `Layer` that is a share; layers where it is None do not count.
    """
    known = [(getattr(layer, what), layer.weights) for layer in layers]
    known = [(value, weights) for value, weights in known if value is not None]
    total = sum(weights for _, weights in known)
    return sum(value * weights for value, weights in known) / total if total else None
