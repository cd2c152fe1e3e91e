"""Summary table of the layers of a prepared model."""

from dataclasses import dataclass

from torch import nn

from quiesce.parallel.wrappers import named_modules
from quiesce.quantization.kinds import layer_kind
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantized_additions import Addition
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer
from quiesce.quantization.ties import EMBEDDINGS
from quiesce.text_table import table


@dataclass(frozen=True, kw_only=True)
class LayerDescription:
    """The quantization of one layer."""

    name: str
    """Name of the layer."""
    kind: str
    """depth-wise, point-wise, full (any other convolution) or linear."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    weight_bits: int
    """Bits of a weight code."""
    act_bits: int | None
    """Bits of an input code, or None for a float input."""
    scales: int
    """Number of weight scales: 1, or one per output channel."""
    ties: tuple[str, ...]
    """Other modules that share the weight, and other names of the layer."""
    locked: bool
    """Whether the weight has requires_grad=False, which fixes latents, codes and scale."""
    frozen: float
    """Fraction of weights whose code is frozen, 0 to 1."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Description:
    """The layers of a prepared model; `print` shows them as a table."""

    layers: tuple[LayerDescription, ...]
    """Quantized layers in the order of the model's modules."""
    additions: int
    """Number of additions with quantized operands."""
    left_float: tuple[str, ...]
    """Modules that multiply by float weights."""

    def __repr__(self) -> str:
        rows = [("layer", "kind", "weight", "bits", "input", "scales", "notes")]
        rows += [_row(layer) for layer in self.layers]
        text = [table(rows)]
        if self.additions:
            text.append(f"additions with quantized operands: {self.additions}")
        if self.left_float:
            text.append(f"in float: {', '.join(self.left_float)}")
        return "\n".join(text)


def describe(model: nn.Module) -> Description:
    """Describe the quantized layers of a model: kind, bits, scales, tied and frozen weights.

        print(quiesce.describe(model))

    Args:
        model: A prepared model. It need not be calibrated, and it is not changed.

    Returns:
        One entry for each quantized layer, and the modules that stay in float.

    Raises:
        NothingToDoError: The model is not prepared.

    Examples:
        >>> print(qs.describe(layer))
        layer  kind    weight  bits  input  scales  notes
        -------------------------------------------------
               linear  4 x 8      3  float       1
    """
    weights = {id(weight.latent): weight for weight in quantized_weights(model)}
    everyone = [
        (name, module)
        for name, module in named_modules(model, remove_duplicate=False)
        if isinstance(module, QuantizedLayer)
    ]
    layers = []
    for name, module in named_modules(model):
        if not isinstance(module, QuantizedLayer):
            continue
        weight, quantizer = weights[id(module.latent)], module.input_quantizer
        description = LayerDescription(
            name=name,
            kind="embedding" if isinstance(module, EMBEDDINGS) else layer_kind(module),
            shape=tuple(weight.latent.shape),
            weight_bits=weight.grid.bits,
            act_bits=None if quantizer is None else quantizer.bits,
            scales=weight.whole_scale.numel(),
            ties=tuple(n for n, m in everyone if m.latent is module.latent and n != name),
            locked=weight.locked,
            frozen=weight.frozen.float().mean().item(),
        )
        layers.append(description)
    return Description(
        layers=tuple(layers),
        additions=sum(isinstance(module, Addition) for module in model.modules()),
        left_float=tuple(left_float(model)),
    )


def left_float(model: nn.Module) -> list[str]:
    """Return the names of modules that multiply by float weights, without norms.

    If the model itself is such a module, its name is that of its class.
    """
    return [
        name or type(module).__name__
        for name, module in named_modules(model)
        if not isinstance(module, QuantizedLayer | FakeQuantizer)
        and any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    ]


def _row(layer: LayerDescription) -> tuple[str, ...]:
    notes = [f"shares its weight with {', '.join(layer.ties)}"] if layer.ties else []
    notes += ["locked"] if layer.locked else []
    notes += [f"{100 * layer.frozen:.1f} % frozen"] if layer.frozen else []
    return (
        layer.name,
        layer.kind,
        " x ".join(map(str, layer.shape)),
        str(layer.weight_bits),
        "float" if layer.act_bits is None else str(layer.act_bits),
        str(layer.scales),
        "; ".join(notes),
    )
