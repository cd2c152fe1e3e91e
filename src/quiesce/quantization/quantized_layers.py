"""Layers that quantize their input and weight, made from any convolution or linear class.

The class of a prepared layer is replaced by a subclass of it. The forward of the subclass quantizes
the input, provides the quantized weight as `weight`, and calls the forward of the parent. Every
subclass therefore works (such as timm's Conv2dSame), `weight` keeps its name in the state_dict, and
torch.compile and torch.export see one graph.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from quiesce.quantization.quantizer import FakeQuantizer, forget_scales

LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_Base = nn.Module if TYPE_CHECKING else object


class QuantizedLayer(_Base):
    """Base class that `quantized_class` adds before the class of a layer."""

    input_quantizer: FakeQuantizer | None
    weight_quantizer: FakeQuantizer
    _emitted: Tensor | None

    @property
    def latent(self) -> nn.Parameter:
        """The float weight that the optimizer updates."""
        return self._parameters["weight"]  # pyright: ignore[reportReturnType]

    @property
    def weight(self) -> Tensor:
        """The latent weight; inside the parent's forward, the quantized weight."""
        emitted = self._emitted
        return self.latent if emitted is None else emitted

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the forward of the parent on the quantized input and weight."""
        if self.input_quantizer is not None:
            input = self.input_quantizer(input)
        object.__setattr__(self, "_emitted", self.weight_quantizer(self.latent))
        try:
            return super().forward(input, *args, **kwargs)
        finally:
            object.__setattr__(self, "_emitted", None)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}weight" in state_dict:
            forget_scales(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[type], dict]:
        """Pickle and copy via the float class, because the subclass cannot be imported by name."""
        return _remake, (float_class(self),), self.__dict__.copy()


@cache
def quantized_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of `cls` whose forward quantizes; the result is cached."""
    body = {"__module__": cls.__module__, "__doc__": f"{cls.__name__}, quantized by quiesce."}
    return type(f"Quantized{cls.__name__}", (QuantizedLayer, cls), body)


def float_class(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a quantized layer before it was prepared."""
    return type(layer).__mro__[2]


def channel_dim(layer: nn.Module) -> int:
    """Return the output-channel dimension of the weight."""
    return 1 if isinstance(layer, TRANSPOSED) else 0


def quantize_layer(
    layer: nn.Module, weight_quantizer: FakeQuantizer, input_quantizer: FakeQuantizer | None
) -> None:
    """Convert a float layer to a quantized layer in place."""
    layer.__class__ = quantized_class(type(layer))
    object.__setattr__(layer, "_emitted", None)
    layer.weight_quantizer = weight_quantizer
    layer.add_module("input_quantizer", input_quantizer)


def restore_layer(layer: nn.Module) -> None:
    """Convert a quantized layer back to a float layer with the latent weight, in place."""
    layer.__class__ = float_class(layer)
    del layer.weight_quantizer, layer.input_quantizer, layer._emitted


def _remake(cls: type[nn.Module]) -> nn.Module:
    made = quantized_class(cls)
    return made.__new__(made)
