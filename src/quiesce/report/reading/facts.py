"""Network, data, size and latency of a run, from its recipe and shipped.json."""

from collections.abc import Iterable
from pathlib import Path

from quiesce.report.numbers import cell
from quiesce.run_folder.contents import DiagnosedLayer, KeptData, KeptRecipe, ShippedFile


def facts_of(
    recipe: KeptRecipe,
    shipped: ShippedFile | None,
    layers: Iterable[DiagnosedLayer],
    low_bits: int | None,
) -> dict[str, str]:
    """Return the known facts of a run, by the header of their column.

    Args:
        low_bits: Bits of most layers, for a run without a recipe.
    """
    sizes = [layer.weights * layer.bits / 8 for layer in layers if layer.bits is not None]
    facts = {
        "network": recipe.model.name,
        "bits": _bits(recipe, low_bits),
        "data": _data(recipe.data),
        "epochs": _epochs(recipe),
        "weights, kB": cell([sum(sizes)], 1, 1e-3) if sizes else None,
        "file, kB": cell([shipped.bytes], 1, 1e-3) if shipped else None,
        "latency, ms": cell([shipped.milliseconds], 2) if shipped else None,
    }
    return {head: text for head, text in facts.items() if text is not None}


def _bits(recipe: KeptRecipe, low_bits: int | None) -> str | None:
    scheme = recipe.scheme
    weights = low_bits if scheme.weight_bits is None else scheme.weight_bits
    if weights is None:
        return None
    text = f"W{weights}" if scheme.act_bits is None else f"W{weights}A{scheme.act_bits}"
    ends = scheme.first_last_bits
    return text if ends in (None, weights) else f"{text}, first and last {ends}"


def _data(data: KeptData) -> str | None:
    if data.name is None or data.folder is None:
        return data.name
    return f"{data.name} ({Path(data.folder).name})"


def _epochs(recipe: KeptRecipe) -> str | None:
    first, quantized = recipe.float_stage.epochs, recipe.trainer.max_epochs
    if quantized is None:
        return None
    return f"{quantized}" if first is None else f"{first} in float, {quantized}"
