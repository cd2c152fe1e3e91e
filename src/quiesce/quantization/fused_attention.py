"""Keep torch's encoder modules from computing with float weights in inference.

`nn.TransformerEncoderLayer` has a fused path for inference without gradients. It reads `weight` of
its linear layers and never calls them, so their quantizers would not run: it would compute with the
latent weights. torch takes this path only if no module inside has a forward hook, so a hook that
does nothing switches it off. `nn.TransformerEncoder` may hand nested tensors to its layers, which
only the fused path understands; its attribute `use_nested_tensor` says so.

`nn.MultiheadAttention` has a fused path too. It reads `out_proj.weight`, but so does its other
path: `prepare` leaves no such layer quantized.
"""

from typing import Any

from torch import nn

from quiesce.quantization.quantized_layers import QuantizedLayer


class _CallsItsLayers:
    """A forward pre-hook that does nothing; its presence has torch call the layers.

    Args:
        use_nested_tensor: What the module had before; None if it is no `nn.TransformerEncoder`.
    """

    def __init__(self, use_nested_tensor: bool | None) -> None:
        self.use_nested_tensor = use_nested_tensor

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Do nothing."""


def switch_off_fused_paths(model: nn.Module) -> None:
    """Have the encoder modules that hold quantized layers call these in inference too."""
    for module in model.modules():
        if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        if any(isinstance(each, QuantizedLayer) for each in module.modules()):
            nested = getattr(module, "use_nested_tensor", None)
            module.register_forward_pre_hook(_CallsItsLayers(nested))
            if nested is not None:
                module.use_nested_tensor = False  # pyright: ignore[reportArgumentType]


def restore_fused_paths(model: nn.Module) -> None:
    """Undo `switch_off_fused_paths`."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _CallsItsLayers):
                del module._forward_pre_hooks[key]
                if hook.use_nested_tensor is not None:
                    nested = hook.use_nested_tensor
                    module.use_nested_tensor = nested  # pyright: ignore[reportArgumentType]
