"""Tied weights: a weight shared by several modules has one quantizer and one set of values.

A module that shares the weight of a quantized layer is quantized with it. An embedding then looks
up quantized rows, so `strip` and every export keep the tie. Ties that cannot be quantized in this
way raise an error that names the modules.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from quiesce.errors import PrepareError
from quiesce.parallel.split_weights import is_split
from quiesce.parallel.wrappers import named_modules, named_parameters
from quiesce.quantization.scheme import Scheme

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
"""Modules that are quantized only if they share the weight of a quantized layer."""


def tied_embeddings(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the embeddings, by name, that share their weight with one of `layers`."""
    weights = {id(layer._parameters.get("weight")) for layer in layers.values()}
    return {
        name: module
        for name, module in named_modules(model)
        if isinstance(module, EMBEDDINGS) and id(module.weight) in weights
    }


def check_ties(model: nn.Module, chosen: Mapping[str, nn.Module], scheme: Scheme) -> None:
    """Raise a PrepareError that names all tied weights that quantization would break."""
    problems = []
    owners: dict[int, str] = {}
    for name, layer in chosen.items():
        owners.setdefault(id(layer._parameters.get("weight")), name)
    for name, module in named_modules(model):
        for attribute, parameter in module._parameters.items():
            owner = owners.get(id(parameter))
            if owner is None or name in chosen:
                continue
            shares = f"{name or 'the model'}.{attribute} is the weight of {owner}"
            if not isinstance(module, EMBEDDINGS) or scheme.excludes(name):
                problems.append(f"{shares}, and {type(module).__name__} {name} stays in float")
            elif module.max_norm is not None or module.sparse:
                problems.append(f"{shares}, and its max_norm or sparse needs a float weight")
    problems += [
        f"{one} and {other} are two parameters in one memory"
        for one, other in _overlapping(model)
        if {one, other} & {f"{name}.weight".lstrip(".") for name in chosen}
    ]
    if problems:
        raise PrepareError(
            f"{'; '.join(problems)}. Quantize both ends or neither (Scheme(include=, exclude=)), "
            "or give each a weight of its own: "
            "module.weight = nn.Parameter(module.weight.detach().clone())"
        )


def _overlapping(model: nn.Module) -> list[tuple[str, str]]:
    """Return pairs of distinct parameters, by name, that overlap in memory."""
    spans = sorted(
        (parameter.device.type, parameter.data_ptr(), _bytes(parameter), name)
        for name, parameter in named_parameters(model)
        if parameter.numel() and not is_split(parameter) and parameter.device.type != "meta"
    )
    pairs, kind, end, last = [], "", 0, ""
    for device, start, size, name in spans:
        if device == kind and start < end:
            pairs.append((last, name))
        if device != kind or start + size > end:
            kind, end, last = device, start + size, name
    return pairs


def _bytes(values: Tensor) -> int:
    """Return the size of the memory span from the first element to the last, in bytes."""
    ways = zip(values.shape, values.stride(), strict=True)
    return (1 + sum((size - 1) * step for size, step in ways)) * values.element_size()
