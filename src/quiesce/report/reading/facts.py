"""What was trained, on what, and how large and fast it is, from the recipe and shipped.json."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quiesce.files.untrusted.typed_values import count, mapping, maybe, number, text
from quiesce.report.run_data import Facts, Layer


def facts_of(
    recipe: dict[str, Any],
    shipped: dict[str, Any] | None,
    layers: Iterable[Layer],
    low_bits: int | None,
) -> Facts:
    """Return the facts of a run.

    Args:
        recipe: The tree of a recipe.yaml, or an empty one.
        shipped: The tree of a shipped.json, or None.
        layers: All that are known.
        low_bits: Bits of most layers, for a run without a recipe.
    """
    known = [layer.weights * layer.bits / 8 for layer in layers if layer.bits is not None]
    shipped = shipped or {}
    return Facts(
        network=maybe(text, mapping(recipe.get("model") or {}).get("name")),
        bits=_bits({"weight_bits": low_bits} | mapping(recipe.get("scheme") or {})),
        data=_data(mapping(recipe.get("data") or {})),
        epochs=_epochs(recipe),
        weights_bytes=sum(known) if known else None,
        file_bytes=maybe(number, shipped.get("bytes")),
        latency_ms=maybe(number, shipped.get("milliseconds")),
    )


def _bits(scheme: dict[str, Any]) -> str | None:
    weights, inputs, ends = (
        maybe(count, scheme.get(name)) for name in ("weight_bits", "act_bits", "first_last_bits")
    )
    if weights is None:
        return None
    told = f"W{weights}" if inputs is None else f"W{weights}A{inputs}"
    return told if ends in (None, weights) else f"{told}, first and last {ends}"


def _data(data: dict[str, Any]) -> str | None:
    name, folder = (maybe(text, data.get(field)) for field in ("name", "folder"))
    return name if name is None or folder is None else f"{name} ({Path(folder).name})"


def _epochs(recipe: dict[str, Any]) -> str | None:
    first = maybe(count, mapping(recipe.get("float_stage") or {}).get("epochs"))
    quantized = maybe(count, mapping(recipe.get("trainer") or {}).get("max_epochs"))
    if quantized is None:
        return None
    return f"{quantized}" if first is None else f"{first} in float, {quantized}"
