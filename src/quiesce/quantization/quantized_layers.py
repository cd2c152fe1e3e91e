"""Layers that quantize their input and weight, made from any convolution or linear class.

The class of a prepared layer becomes a subclass of its own class. Its forward quantizes the input,
shows the quantized weight to the parent as `weight`, and calls the parent's forward. So every
subclass works (such as timm's Conv2dSame), `weight` keeps its name in the state_dict, and
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
    """The base that `quantized_class` puts before the class of a layer."""

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
        """Run the parent's forward on quantized input and weight."""
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
        """Pickle and copy by the float class, because the subclass has no importable name."""
        return _remake, (float_class(self),), self.__dict__.copy()


@cache
def quantized_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of `cls` whose forward quantizes; always the same object."""
    body = {"__module__": cls.__module__, "__doc__": f"{cls.__name__}, quantized by quiesce."}
    return type(f"Quantized{cls.__name__}", (QuantizedLayer, cls), body)


def float_class(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a quantized layer before it was prepared."""
    return type(layer).__mro__[2]


def channel_dim(layer: nn.Module) -> int:
    """Return the dimension of the weight that counts output channels."""
    return 1 if isinstance(layer, TRANSPOSED) else 0


def quantize_layer(
    layer: nn.Module, weight_quantizer: FakeQuantizer, input_quantizer: FakeQuantizer | None
) -> None:
    """Turn a float layer into a quantized one, in place."""
    layer.__class__ = quantized_class(type(layer))
    object.__setattr__(layer, "_emitted", None)
    layer.weight_quantizer = weight_quantizer
    layer.add_module("input_quantizer", input_quantizer)


def restore_layer(layer: nn.Module) -> None:
    """Turn a quantized layer back into a float one with the latent weight, in place."""
    layer.__class__ = float_class(layer)
    del layer.weight_quantizer, layer.input_quantizer, layer._emitted


def _remake(cls: type[nn.Module]) -> nn.Module:
    made = quantized_class(cls)
    return made.__new__(made)
