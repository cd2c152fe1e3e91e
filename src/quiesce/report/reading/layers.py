"""Layers and batch norms of a run, from its summary.json or, with more, its diagnosis.json."""

from collections.abc import Iterable, Sequence, Sized
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from quiesce.files.untrusted.typed_values import count, mapping, maybe, number
from quiesce.report.run_data import DEPTHWISE, BatchNorm, Histogram, Layer

T = TypeVar("T", bound=Sized)

MOST_LAYERS = 20_000
"""Of a page; each is a row of a table."""


def summarized_layers(summary: dict[str, Any]) -> tuple[Layer, ...]:
    """Return the layers of a summary, which knows two kinds only."""
    return tuple(
        Layer(**_common(each), kind=DEPTHWISE if each["depthwise"] else "other")
        for each in _few(summary["oscillation"]["layers"])
    )


def layers_of(diagnosis: dict[str, Any]) -> tuple[Layer, ...]:
    """Return the layers of a diagnosis, with their histograms."""
    return tuple(
        Layer(
            **_common(each),
            kind=str(each["kind"]),
            near_threshold=maybe(number, each.get("near_threshold")),
            offsets=_histogram(each.get("offsets"), "edges"),
            codes=_histogram(each.get("codes"), "code"),
        )
        for each in _few(diagnosis["layers"])
    )


def _few(layers: T) -> T:
    """Return layers; raises ValueError where they are more than a page can show."""
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{len(layers):,} layers are more than the {MOST_LAYERS:,} of a page")
    return layers


def _common(layer: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": str(layer["name"]),
        "weights": count(layer["weights"]),
        "bits": maybe(count, layer["bits"]),
        "oscillating": number(layer["oscillating"]),
        "frozen": number(layer["frozen"]),
        "flips_per_step": number(layer["flips_per_step"]),
        "distance_ratio": maybe(number, layer.get("distance_ratio")),
        "transition_rate": maybe(number, layer.get("transition_rate")),
    }


def _histogram(tree: dict[str, Any] | None, places: str) -> Histogram | None:
    if tree is None:
        return None
    found = Histogram(
        places=np.asarray(tree[places], float), counts=np.asarray(tree["counts"], float)
    )
    if len(found.places) - len(found.counts) != (places == "edges"):
        raise ValueError(f"{len(found.counts)} counts do not fit {len(found.places)} {places}")
    return found


def planned_bits(recipe: dict[str, Any], names: Sequence[str]) -> dict[str, int]:
    """Return the bits that a recipe has for each layer; nothing where it has no scheme.

    Args:
        recipe: The tree of a recipe.yaml.
        names: Of the layers, in the order of the network: the first and the last are special.
    """
    scheme = mapping(recipe.get("scheme", {}))
    usual, ends = (maybe(count, scheme.get(name)) for name in ("weight_bits", "first_last_bits"))
    if usual is None or not names:
        return {}
    bits = dict.fromkeys(names, usual)
    if ends is not None:
        bits |= {names[0]: ends, names[-1]: ends}
    for pattern, changes in mapping(scheme.get("overrides", {})).items():
        own = maybe(count, mapping(changes).get("weight_bits"))
        if own is not None:
            bits |= {name: own for name in names if fnmatchcase(name, str(pattern))}
    return bits


def summarized_batchnorms(summary: dict[str, Any]) -> tuple[BatchNorm, ...]:
    """Return the batch norms of a summary, which does not say what feeds them."""
    return tuple(
        BatchNorm(
            name=name, kind="not diagnosed", kl_mean=number(kl["mean"]), kl_max=number(kl["max"])
        )
        for name, kl in _few(summary.get("batchnorm_kl", {})).items()
    )


def batchnorms_of(diagnosis: dict[str, Any]) -> tuple[BatchNorm, ...]:
    """Return the batch norms of a diagnosis."""
    return tuple(
        BatchNorm(
            name=str(each["name"]),
            kind=str(each["kind"]),
            kl_mean=number(each["kl_mean"]),
            kl_max=number(each["kl_max"]),
        )
        for each in _few(diagnosis.get("batchnorm") or ())
    )


def share(layers: Iterable[Layer], what: str) -> float | None:
    """Return a share over some layers, each weight counting once; None over none.

    Args:
        layers: Any.
        what: A field of `Layer` that is a share; layers where it is None do not count.
    """
    known = [(getattr(layer, what), layer.weights) for layer in layers]
    known = [(value, weights) for value, weights in known if value is not None]
    total = sum(weights for _, weights in known)
    return sum(value * weights for value, weights in known) / total if total else None
